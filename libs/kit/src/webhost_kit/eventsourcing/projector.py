"""The one projector: folds a stream into the service's own Postgres.

Consumes: one stream, from the checkpoint in the table `checkpoints`.
Guarantees: the fold's rows and the checkpoint are one transaction, so each message is folded
exactly once however often the process dies; a second replica waits on the checkpoint's lock.
A fold that also appends facts or commands through the outbox is a reactor: its decisions are in
the same transaction. An event of unknown type moves the checkpoint and changes nothing.
On replay (no checkpoint): from the start of the stream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.base import Event

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Batch, Checkpoint, StreamReader
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, VersionConflict
from webhost_kit.eventsourcing.checkpoints import read_checkpoint, save_checkpoint
from webhost_kit.eventsourcing.facts import Fact, facts

log = structlog.get_logger(__name__)

RETRY_S = 0.5

Fold = Callable[[AsyncConnection, Sequence[Fact], Checkpoint], Awaitable[None]]
"""Writes what the facts mean, on the given connection. Gets the checkpoint behind the batch."""

Committed = Callable[[], Awaitable[None]]
"""Runs after a batch was committed, before the next is folded."""

_folded = Counter("webhost_projector_folded_total", "Messages folded", ["projection"])


class Projector:
    """Keeps one projection up to date for as long as it runs."""

    def __init__(
        self,
        name: str,
        database: Database,
        bus: Bus,
        stream: str,
        subjects: Sequence[str],
        types: Mapping[str, type[Event]],
        fold: Fold,
        *,
        committed: Committed | None = None,
        batch_size: int = 500,
    ) -> None:
        self._name = name
        self._database = database
        self._stream = stream
        self._types = types
        self._fold = fold
        self._committed = committed
        self._reader = StreamReader(bus, stream, subjects, batch_size=batch_size)
        self._active = False
        self._problem: str | None = "starting"

    def check(self) -> str | None:
        """Say what keeps the projection from being current. A waiting replica is well."""
        return self._problem or (self._reader.check() if self._active else None)

    async def run(self) -> None:
        """Project for ever; broken dependencies are waited for, a diverged stream is not."""
        while True:
            try:
                await self._hold_lock_and_project()
            except StreamDiverged as error:
                self._problem = f"halted: {error}"
                log.error("projection halted", projection=self._name, reason=str(error))
                return
            except VersionConflict as error:
                log.info("decided elsewhere first; folding again", aggregate=str(error))
            except (DBAPIError, PoolExhausted, OSError, TimeoutError) as error:
                if isinstance(error, DBAPIError) and not _is_away(error):
                    raise
                self._problem = f"database away: {type(error).__name__}"
                log.warning("projection interrupted", projection=self._name, error=repr(error))
                await asyncio.sleep(RETRY_S)
            finally:
                self._active = False

    async def _hold_lock_and_project(self) -> None:
        async with self._database.engine.connect() as connection:
            try:
                while not await self._lock(connection):
                    self._problem = None
                    await asyncio.sleep(RETRY_S)
                self._active = True
                self._problem = None
                async for batch in self._reader.batches(await self._checkpoint(connection)):
                    await self._apply(connection, batch)
            finally:
                # The lock goes with its connection, which must not return to the pool.
                await connection.invalidate()

    async def _apply(self, connection: AsyncConnection, batch: Batch) -> None:
        async with connection.begin():
            known = facts(batch.messages, self._types)
            if known:
                await self._fold(connection, known, batch.checkpoint)
            await save_checkpoint(connection, self._name, self._stream, batch.checkpoint)
        if self._committed is not None:
            await self._committed()
        _folded.labels(self._name).inc(len(batch.messages))

    async def _lock(self, connection: AsyncConnection) -> bool:
        async with connection.begin():
            result = await connection.execute(
                text(
                    "SELECT pg_try_advisory_lock("
                    "hashtext('projection ' || :name), hashtext(current_schema()))"
                ),
                {"name": self._name},
            )
            return bool(result.scalar_one())

    async def _checkpoint(self, connection: AsyncConnection) -> Checkpoint | None:
        async with connection.begin():
            return await read_checkpoint(connection, self._name)


def _is_away(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(error, OperationalError)
