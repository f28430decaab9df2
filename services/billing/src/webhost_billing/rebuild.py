"""A rebuild: usage made anew from the stream, beside the live rows, and put in their place.

Consumes: USAGE from its first message, while live folding goes on.
Emits: nothing on the streams; it states no facts. Progress goes to whoever asked.
Guarantees: the swap is one transaction, in which both generations stand at the same checkpoint;
until then nothing is changed. One rebuild runs at a time. Memory does not grow with the stream.
On replay (it died): its rows are of a generation that is not live; the next start removes them.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from msgspec.structs import replace
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.rpc import Difference, RebuildProgress, RebuildRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import facts
from webhost_kit.process.crashpoints import crash_point

from webhost_billing import generations, projection
from webhost_billing.charging import PriceBook
from webhost_billing.model import TYPES
from webhost_billing.replay import Replay
from webhost_billing.usage import fold_into

log = structlog.get_logger(__name__)

DIFFERENCES_PER_LINE = 500

SendProgress = Callable[[RebuildProgress], Awaitable[None]]


class Refused(Exception):
    """The rebuild cannot be done; the message says why."""


@dataclass(frozen=True)
class _Rebuilt:
    """How many messages were folded, what differed, which generation nobody reads any more."""

    messages: int
    differences: Sequence[Difference]
    dead: int


class Rebuilder:
    """Rebuilds usage when an operator asks for it."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        prices: PriceBook,
        totals_due: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._bus = bus
        self._prices = prices
        self._totals_due = totals_due
        self._clean = asyncio.Event()

    async def rebuild(self, request: RebuildRequest, send: SendProgress) -> None:
        """Rebuild and send each step; the last line has `done`, or `refused` with the reason."""
        try:
            if request.user_id is not None or request.period_key is not None:
                raise Refused("a rebuild of one user or period is not supported yet; rebuild all")
            await self._clean.wait()
            async with self._alone() as connection:
                rebuilt = await self._rebuild(connection, request.dry_run, send)
        except (Refused, StreamDiverged) as refusal:
            await send(RebuildProgress(processed=0, total=0, refused=str(refusal)))
            return
        await self._purge(rebuilt.dead)
        await _send_end(send, rebuilt, swapped=not request.dry_run)

    async def clean_up(self) -> None:
        """Remove what a rebuild that died has left, unless another process rebuilds now.

        Once, at start: rebuilds wait for it.
        """
        try:
            async with self._alone():
                await self._purge_dead()
        except (Refused, Unavailable, DBAPIError) as error:
            log.info("nothing cleaned up", reason=str(error).partition("\n")[0])
        finally:
            self._clean.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[AsyncConnection]:
        """Hold the lock on rebuilding. Raises Refused where somebody else has it."""
        async with self._database.engine.connect() as connection:
            try:
                async with connection.begin():
                    locked = (await connection.execute(_LOCK)).scalar_one()
                if not locked:
                    raise Refused("a rebuild is running already")
                yield connection
                async with connection.begin():
                    await connection.execute(_UNLOCK)
            finally:
                # The lock goes with its connection, which must not return to the pool.
                await connection.invalidate()

    async def _rebuild(
        self, connection: AsyncConnection, dry_run: bool, send: SendProgress
    ) -> _Rebuilt:
        total = await self._total()
        await self._purge_dead()
        async with connection.begin():
            new = await generations.begin(connection)
        async with aclosing(Replay(self._bus)) as replay:
            while messages := await replay.next(total):
                async with connection.begin():
                    await fold_into(connection, new, facts(messages, TYPES), self._prices)
                    # Live folding goes on: the less it is ahead, the shorter it is held up.
                    total = await _live_sequence(connection)
                crash_point("rebuild.folded")
                await send(RebuildProgress(processed=replay.sequence, total=total))
            async with connection.begin():
                live = await generations.lock(connection)
                total = await _live_sequence(connection)
                while messages := await replay.next(total):
                    await fold_into(connection, new, facts(messages, TYPES), self._prices)
                differences = await generations.differences(connection, live, new)
                if not dry_run:
                    await generations.swap(connection, live, new, period_key(now_ms()), total)
                    crash_point("rebuild.swapping")
        if not dry_run:
            await self._totals_due()
        log.info("rebuilt", dry_run=dry_run, messages=total, differences=len(differences))
        return _Rebuilt(total, differences, dead=new if dry_run else live)

    async def _purge_dead(self) -> None:
        for generation in await generations.dead(self._database):
            await self._purge(generation)

    async def _purge(self, generation: int) -> None:
        try:
            await generations.purge(self._database, generation)
        except Unavailable:
            log.warning("left for the next cleanup", generation=generation)

    async def _total(self) -> int:
        """Return how many messages there are. Raises Refused where the stream lacks some."""
        async with self._database.transaction() as connection:
            checkpoint = await read_checkpoint(connection, projection.NAME)
        stream = await self._bus.js.stream_info(subjects.USAGE)
        state = stream.state
        if checkpoint and checkpoint.stream_created_at != str(stream.created):
            raise Refused("the stream is not the one that usage was folded from")
        if state.first_seq > 1:
            raise Refused(
                f"the stream begins at {state.first_seq}: what was before it cannot be rebuilt"
            )
        if state.messages != state.last_seq:
            raise Refused(f"the stream lacks {state.last_seq - state.messages} of its messages")
        return checkpoint.sequence if checkpoint else 0


async def _live_sequence(connection: AsyncConnection) -> int:
    """Return up to where the live generation has been folded."""
    checkpoint = await read_checkpoint(connection, projection.NAME)
    return checkpoint.sequence if checkpoint else 0


async def _send_end(send: SendProgress, rebuilt: _Rebuilt, *, swapped: bool) -> None:
    """SendProgress the differences, no more in one message than the bus takes, and the end."""
    found = rebuilt.differences
    line = RebuildProgress(processed=rebuilt.messages, total=rebuilt.messages)
    while len(found) > DIFFERENCES_PER_LINE:
        await send(replace(line, differences=tuple(found[:DIFFERENCES_PER_LINE])))
        found = found[DIFFERENCES_PER_LINE:]
    await send(replace(line, differences=tuple(found), done=True, swapped=swapped))


_LOCK = sa.text(
    "SELECT pg_try_advisory_lock(hashtext('billing rebuild'), hashtext(current_schema()))"
)
_UNLOCK = sa.text(
    "SELECT pg_advisory_unlock(hashtext('billing rebuild'), hashtext(current_schema()))"
)
