"""A rebuild: usage folded again from the stream, beside the live rows, which it then replaces.

Consumes: USAGE from its first message, in several processes (see `process_pool`), while live
folding goes on.
Emits: nothing on the streams; it states no facts. Progress goes to the operator who asked.
Guarantees: no usage that was counted is lost, and nothing that was sealed is changed: a sealed
period that the stream does not hold whole any more is carried over, an open one is refused, and
where the stream comes to something else than a seal, the seal stands. Until the swap (see
`run`) nothing is changed. One rebuild runs at a time. Memory does not grow with the stream.
On replay (it died, or one of its processes did): the next rebuild of the same scope, by the same
rules, goes on from there; another one, or a start a week later, removes what it left. A dry run
goes on as well, and leaves what it found, folded further; it removes only what it began.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.leadership import EXPIRES_S
from webhost_kit.errors import Unavailable
from webhost_kit.tasks import cancel

from webhost_billing import generations
from webhost_billing.charging import Rules
from webhost_billing.rebuild import progress
from webhost_billing.rebuild.process_pool import PoolFailed
from webhost_billing.rebuild.run import Rebuilt, Run, SendProgress
from webhost_billing.rebuild.scope import Refused, Scope, scope_of

log = structlog.get_logger(__name__)

ROWS_PER_LINE = 500
REPEAT_S = 5.0


class Rebuilder:
    """Rebuilds usage when an operator asks for it."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        rules: Rules,
        swapped: Callable[[], Awaitable[None]],
        remove_old: Callable[[], Awaitable[object]],
    ) -> None:
        self._database = database
        self._bus = bus
        self._rules = rules
        self._swapped = swapped
        self._remove_old = remove_old
        self._clean = asyncio.Event()

    async def rebuild(self, request: RebuildRequest, send: SendProgress) -> None:
        """Rebuild and send each step; the last line has `done`, or `refused` with the reason."""
        try:
            scope = scope_of(request)
            async with repeating(send) as send_step:
                await self._clean.wait()
                async with self._alone() as connection:
                    rebuilt = await self._run(connection, scope, send_step, dry_run=request.dry_run)
        except (Refused, PoolFailed) as refusal:
            await send(RebuildProgress(processed=0, total=0, refused=str(refusal)))
            return
        if not request.dry_run:
            await self._swapped()
        await _send_end(send, rebuilt, swapped=not request.dry_run)
        if rebuilt.dead is not None:
            await self._purge(rebuilt.dead)

    async def _run(
        self, connection: AsyncConnection, scope: Scope, send: SendProgress, *, dry_run: bool
    ) -> Rebuilt:
        run = Run(connection, self._bus, self._rules, scope, send)
        try:
            return await run.run(dry_run, self._remove_old, self._purge_dead)
        except PoolFailed as failure:
            raise PoolFailed(f"{failure}; the same rebuild again goes on from there") from failure
        except Refused:
            if dry_run:
                raise
            async with self._database.transaction() as other:
                await progress.give_up_all(other)
            await self._purge_dead()
            raise

    async def clean_up(self) -> None:
        """Remove what a rebuild that died has left, unless another process rebuilds now.

        Once, at start: rebuilds wait for it.
        """
        try:
            async with self._alone():
                async with self._database.transaction() as connection:
                    await progress.give_up_old(connection)
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


@asynccontextmanager
async def repeating(send: SendProgress) -> AsyncGenerator[SendProgress]:
    """Send each line, and the last one again while nothing new is to be said: long steps are not
    taken for a rebuild that died.
    """
    last = RebuildProgress(processed=0, total=0)

    async def send_step(line: RebuildProgress) -> None:
        nonlocal last
        last = replace(line, resumed=0)
        await send(line)

    async def repeat() -> None:
        while True:
            await asyncio.sleep(REPEAT_S)
            await send(last)

    task = asyncio.create_task(repeat())
    try:
        yield send_step
    finally:
        await cancel(task)


async def _send_end(send: SendProgress, rebuilt: Rebuilt, *, swapped: bool) -> None:
    """Send the differences, no more in one message than the bus takes, and the end."""
    found, sealed = list(rebuilt.differences.rows), list(rebuilt.sealed.rows)
    left_out = rebuilt.differences.count + rebuilt.sealed.count - len(found) - len(sealed)
    line = RebuildProgress(processed=rebuilt.messages, total=rebuilt.messages)
    while len(found) > ROWS_PER_LINE:
        await send(replace(line, differences=tuple(found[:ROWS_PER_LINE])))
        del found[:ROWS_PER_LINE]
    while len(found) + len(sealed) > ROWS_PER_LINE:
        await send(replace(line, sealed=tuple(sealed[:ROWS_PER_LINE])))
        del sealed[:ROWS_PER_LINE]
    end = replace(line, differences=tuple(found), sealed=tuple(sealed), left_out=left_out)
    await send(replace(end, done=True, swapped=swapped, held_back_ms=rebuilt.held_back_ms))


_KEY = (sa.func.hashtext("billing rebuild"), sa.func.hashtext(sa.func.current_schema()))
_LOCK = sa.select(sa.func.pg_try_advisory_lock(*_KEY))
_UNLOCK = sa.select(sa.func.pg_advisory_unlock(*_KEY))
