"""A rebuild: usage folded again from the stream, beside the live rows, which it then replaces.

Consumes: USAGE from its first message, in several processes (see `process_pool`), while live
folding goes on.
Emits: nothing on the streams; it states no facts. Progress goes to the operator who asked.
Guarantees: no usage that was counted is lost: where the stream does not hold all of it any more,
the rebuild is refused. The swap is one transaction, in which both generations stand at the same
sequence of every partition; until then nothing is changed. One rebuild runs at a time. Memory does
not grow with the stream.
On replay (it died, or one of its processes did): its rows are of a generation that is not live;
the next rebuild or start removes them.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import sqlalchemy as sa
import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.rpc import Difference, RebuildProgress, RebuildRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.leadership import EXPIRES_S, HEARTBEAT_S
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.process.crashpoints import crash_point

from webhost_billing import generations
from webhost_billing.process_pool import Pool, PoolFailed, start_pool
from webhost_billing.projection import checkpoint_name
from webhost_billing.refolding import Targets

log = structlog.get_logger(__name__)

DIFFERENCES_PER_LINE = 500
CATCH_UP_S = 1.0
"""Folds are held back only when catching up with them last took no longer than this."""

SendProgress = Callable[[RebuildProgress], Awaitable[None]]


class Refused(Exception):
    """The rebuild cannot be done; the message says why."""


@dataclass(frozen=True)
class _Rebuilt:
    """How many messages were folded, what differed, which generation is to be removed."""

    messages: int
    differences: Sequence[Difference]
    dead: int


class Rebuilder:
    """Rebuilds usage when an operator asks for it."""

    def __init__(
        self, database: Database, bus: Bus, swapped: Callable[[], Awaitable[None]]
    ) -> None:
        self._database = database
        self._bus = bus
        self._swapped = swapped
        self._clean = asyncio.Event()

    async def rebuild(self, request: RebuildRequest, send: SendProgress) -> None:
        """Rebuild and send each step; the last line has `done`, or `refused` with the reason."""
        try:
            if request.user_id is not None or request.period_key is not None:
                raise Refused("a rebuild of one user or period is not supported yet; rebuild all")
            await self._clean.wait()
            async with self._alone() as connection:
                await self._purge_dead()
                try:
                    rebuilt = await _Rebuild(connection, self._bus, send).run(request.dry_run)
                except (Refused, PoolFailed):
                    await self._purge_dead()
                    raise
        except (Refused, PoolFailed) as refusal:
            await send(RebuildProgress(processed=0, total=0, refused=str(refusal)))
            return
        if not request.dry_run:
            await self._swapped()
        await _send_end(send, rebuilt, swapped=not request.dry_run)
        await self._purge(rebuilt.dead)

    async def clean_up(self) -> None:
        """Remove what a rebuild that died has left, unless another process rebuilds now.

        Once, at start: rebuilds wait for it.
        """
        try:
            async with self._alone():
                await self._purge_dead()
        except Exception as error:
            if not (isinstance(error, Refused | Unavailable) or is_away(error)):
                raise
            log.info("cleanup skipped", reason=str(error).partition("\n")[0])
        finally:
            self._clean.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[AsyncConnection]:
        """Hold the lock on rebuilding. Raises Refused where another process has it."""
        async with self._database.engine.connect() as connection:
            try:
                async with connection.begin():
                    # Without a heartbeat the server ends the session, and with it the lock.
                    await connection.execute(sa.text(f"SET idle_session_timeout = '{EXPIRES_S}s'"))
                    locked = (await connection.execute(_LOCK)).scalar_one()
                if not locked:
                    raise Refused("a rebuild is running already")
                yield connection
                async with connection.begin():
                    await connection.execute(_UNLOCK)
            finally:
                # The lock goes with its connection, which must not return to the pool.
                await connection.invalidate()

    async def _purge_dead(self) -> None:
        for generation in await generations.dead(self._database):
            await self._purge(generation)

    async def _purge(self, generation: int) -> None:
        try:
            await generations.purge(self._database, generation)
        except Unavailable:
            log.warning("generation not removed; the next cleanup will", generation=generation)


class _Rebuild:
    """One rebuild, on the connection that holds the lock: without the lock there is no swap."""

    def __init__(self, connection: AsyncConnection, bus: Bus, send: SendProgress) -> None:
        self._connection = connection
        self._bus = bus
        self._send = send
        self._folded = 0
        self._total = 0

    async def run(self, dry_run: bool) -> _Rebuilt:
        connection = self._connection
        async with connection.begin():
            await self._require_whole_stream()
            new = await generations.begin(connection)
        async with start_pool(new) as pool:
            took = CATCH_UP_S + 1
            while took > CATCH_UP_S:
                async with connection.begin():
                    targets = await _live_targets(connection)
                began = monotonic()
                await self._fold_up_to(pool, targets)
                took = monotonic() - began
            async with connection.begin():
                live = await generations.block_folds(connection)
                await self._fold_up_to(pool, await _live_targets(connection))
                differences = await generations.differences(connection, live, new)
                if not dry_run:
                    await _require_all_rebuilt(connection, live, new)
                    await generations.swap(connection, live, new, period_key(now_ms()))
                    crash_point("rebuild.swapping")
        log.info("rebuilt", dry_run=dry_run, messages=self._folded, differences=len(differences))
        return _Rebuilt(self._folded, differences, dead=new if dry_run else live)

    async def _fold_up_to(self, pool: Pool, targets: Targets) -> None:
        """Let the processes fold, while this connection shows the server that it lives."""
        self._total = max([self._total, *targets.values()])
        folding = asyncio.ensure_future(pool.fold_up_to(targets, self._on_folded))
        try:
            while not (await asyncio.wait([folding], timeout=HEARTBEAT_S))[0]:
                await self._heartbeat()
            await folding
        finally:
            folding.cancel()

    async def _on_folded(self, messages: int) -> None:
        self._folded += messages
        crash_point("rebuild.progress")
        await self._send(RebuildProgress(processed=self._folded, total=self._total))

    async def _heartbeat(self) -> None:
        if self._connection.in_transaction():
            await self._connection.execute(_HEARTBEAT)
        else:
            async with self._connection.begin():
                await self._connection.execute(_HEARTBEAT)

    async def _require_whole_stream(self) -> None:
        """Raise Refused where the stream lacks messages, or is not the one that was folded."""
        stream = await self._bus.js.stream_info(subjects.USAGE)
        for partition in range(subjects.PARTITIONS):
            checkpoint = await read_checkpoint(self._connection, checkpoint_name(partition))
            created_at = checkpoint.stream_created_at if checkpoint else ""
            if created_at not in ("", str(stream.created)):
                raise Refused("the stream is not the one that usage was folded from")
        state = stream.state
        if state.first_seq > 1:
            raise Refused(
                f"the stream begins at {state.first_seq}: what was before it cannot be rebuilt"
            )
        if state.messages != state.last_seq:
            raise Refused(f"the stream lacks {state.last_seq - state.messages} of its messages")


async def _require_all_rebuilt(connection: AsyncConnection, live: int, new: int) -> None:
    """Raise Refused where calls were counted that the stream holds no more: it was lost since."""
    lost = await generations.not_rebuilt(connection, live, new)
    if lost:
        raise Refused(f"the stream does not hold {lost} invocations any more that were counted")


async def _live_targets(connection: AsyncConnection) -> Targets:
    """Return by partition up to where the live generation has been folded."""
    checkpoints = {
        partition: await read_checkpoint(connection, checkpoint_name(partition))
        for partition in range(subjects.PARTITIONS)
    }
    return {p: checkpoint.sequence for p, checkpoint in checkpoints.items() if checkpoint}


async def _send_end(send: SendProgress, rebuilt: _Rebuilt, *, swapped: bool) -> None:
    """Send the differences, no more in one message than the bus takes, and the end."""
    found = rebuilt.differences
    line = RebuildProgress(processed=rebuilt.messages, total=rebuilt.messages)
    while len(found) > DIFFERENCES_PER_LINE:
        await send(replace(line, differences=tuple(found[:DIFFERENCES_PER_LINE])))
        found = found[DIFFERENCES_PER_LINE:]
    await send(replace(line, differences=tuple(found), done=True, swapped=swapped))


_KEY = (sa.func.hashtext("billing rebuild"), sa.func.hashtext(sa.func.current_schema()))
_LOCK = sa.select(sa.func.pg_try_advisory_lock(*_KEY))
_UNLOCK = sa.select(sa.func.pg_advisory_unlock(*_KEY))
_HEARTBEAT = sa.select(1)
