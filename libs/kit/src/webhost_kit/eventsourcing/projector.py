"""The one projector: folds a stream into the service's own Postgres.

Consumes: one stream, from the projection's checkpoint.
Guarantees: the fold's rows and the checkpoint are one transaction, so each message is folded
exactly once however often the process dies. One process folds at a time, and is replaced when it
hangs or receives nothing. A fold that also appends facts or commands through the outbox is a
reactor: its decisions are in the same transaction. What the fold cannot use is parked while
everything else continues (see `parking`).
On replay (no checkpoint, or a reset one): from the start of the stream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import monotonic

import structlog
from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.base import Event

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Batch, StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_conflict
from webhost_kit.database.engine import Database
from webhost_kit.database.leadership import Leadership, end_lock_sessions
from webhost_kit.errors import CheckpointMoved, StreamDiverged, Unavailable, VersionConflict
from webhost_kit.eventsourcing import fold_spans
from webhost_kit.eventsourcing.checkpoints import (
    read_checkpoint,
    require_checkpoint,
    reset_checkpoint,
    save_checkpoint,
)
from webhost_kit.eventsourcing.lag import Lag
from webhost_kit.eventsourcing.parking import Fold, Parking
from webhost_kit.process.metrics import MOMENT_S, ReadGauge

log = structlog.get_logger(__name__)

RETRY_S = 0.5
HALTED_POLL_S = 1.0

Committed = Callable[[], Awaitable[None]]
"""Runs after a batch was committed, before the next is folded."""

Reset = Callable[[AsyncConnection], Awaitable[None]]
"""Removes the projection's rows, in the transaction that resets its checkpoint."""

_folded = Counter(
    "webhost_projector_messages_folded_total",
    "Messages of a stream that were folded",
    ["projection"],
)
_batch = Histogram(
    "webhost_projector_batch_duration_seconds",
    "Seconds that the transaction of one batch took",
    ["projection"],
    buckets=MOMENT_S,
)
_parked = ReadGauge(
    "webhost_projector_parked_events",
    "Events that a projection could not fold, and those that wait behind them",
    ["projection", "partition"],
)


class Projector:
    """Keeps one projection up to date while it runs.

    With `share`, the name of that share's lock sessions, `run` is not used: the holder of the
    share calls `project`. With `pause_s`, it waits that long after a batch behind which nothing
    was waiting: what arrives meanwhile is one transaction instead of one for each message.
    With `partition`, it is that part of the projection that `family` names in metrics.
    Without `spans`, the fold makes those of its facts itself (see `fold_spans`).
    """

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
        reset: Reset | None = None,
        batch_size: int = 500,
        pause_s: float = 0.0,
        share: str | None = None,
        family: str | None = None,
        partition: int | None = None,
        spans: bool = True,
    ) -> None:
        self.name = name
        self._family = family or name
        self._partition = "all" if partition is None else str(partition)
        self.stream = stream
        self._database = database
        self._committed = committed
        self._reset = reset
        self._pause_s = pause_s
        self._spans = spans
        self._reader = StreamReader(bus, stream, subjects, batch_size=batch_size)
        self._leadership = Leadership(
            database.dsn, f"projection {name}", check=self._reader.interruption
        )
        self._shared = share is not None
        self._lock_session = share or f"leadership projection {name}"
        self._projecting = False
        self._problem: str | None = None
        self._parking = Parking(name, database, stream, types, fold, family=self._family)
        self._lag = Lag(self._family, self._partition, self._reader)
        self._batch_s = _batch.labels(self._family)
        self._folded = _folded.labels(self._family)
        _parked.read(
            lambda: self._parking.parked if self._projecting else None,
            self._family,
            self._partition,
        )

    def check(self) -> str | None:
        """Say what keeps the projection from being current; a waiting replica is healthy."""
        if self._projecting:
            return self._problem or self._reader.check()
        return None if self._shared else self._leadership.check()

    @property
    def projects_here(self) -> bool:
        """Say whether it is this process that folds."""
        return self._projecting

    def note(self) -> str | None:
        """Say how many events are parked, which does not affect readiness.

        Only who folds knows: another process may have replayed what this one parked.
        """
        count = self._parking.parked if self._projecting else 0
        return f"{count} parked" if count else None

    async def verify(self, checkpoint: Checkpoint | None) -> None:
        """Ask the stream whether it still is the one of this checkpoint.

        Raises StreamDiverged, or StreamMissing.
        """
        await self._reader.verified(checkpoint)

    async def run(self) -> None:
        """Project whenever it is this process's turn; broken dependencies are waited for."""
        await self._leadership.run(self.project)

    async def project(self) -> None:
        """Project until a dependency goes away, which raises an error that `is_away` recognises."""
        self._projecting = True
        try:
            async with self._lag.measured():
                await self._project()
        finally:
            self._projecting = False

    async def _project(self) -> None:
        self._problem = None
        await self._parking.count()
        replay = self._parking.parked > 0
        while True:
            checkpoint = await self._checkpoint()
            try:
                if replay:
                    await self.replay_parked()
                    replay = False
                async with aclosing(self._reader.batches(checkpoint)) as batches:
                    async for batch in batches:
                        self._lag.folding(batch, checkpoint)
                        await self._apply(batch, checkpoint)
                        checkpoint = batch.checkpoint
                        self._lag.folded(batch)
                        if self._pause_s and batch.messages and not batch.pending:
                            await asyncio.sleep(self._pause_s)
            except StreamDiverged as error:
                await self._halt(str(error))
            except CheckpointMoved:
                log.info("checkpoint moved; reading it again", projection=self.name)
            except VersionConflict as error:
                log.info("decided elsewhere first; folding again", aggregate=str(error))
            except Unavailable as error:
                self._problem = str(error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                if not is_conflict(error):
                    raise
                log.info("another transaction was in the way; folding again", error=str(error))
            self._problem = None

    async def reset(self) -> None:
        """Restart from the beginning of the stream, without the rows that were made so far.

        Rows that cannot be made from the stream alone stay, and facts already folded into them
        are skipped by version. Raises Unavailable.
        """
        async with self._database.transaction() as connection:
            await reset_checkpoint(connection, self.name)
            if self._reset is not None:
                await self._reset(connection)
            # The process that folds may get nothing new for long, and would not notice.
            await end_lock_sessions(connection, self._lock_session)
        log.warning("projection reset", projection=self.name)

    async def replay_parked(self) -> tuple[int, int]:
        """Fold what is parked again; return how many were folded and how many are left.

        Raises Unavailable when that says nothing about an event: it is to be done again.
        """
        folded = await self._parking.fold_again(self._committed)
        await self._parking.count()
        if not self._projecting:
            # The process that folds counts again when it starts over.
            async with self._database.transaction() as connection:
                await end_lock_sessions(connection, self._lock_session)
        return folded, self._parking.parked

    async def _apply(self, batch: Batch, expected: Checkpoint | None) -> None:
        if batch.checkpoint == expected or (expected is None and not batch.messages):
            return
        began_s = monotonic()
        started_ms = now_ms()
        async with self._database.engine.begin() as connection:
            await require_checkpoint(connection, self.name, expected)
            good, unfoldable = await self._parking.fold(connection, batch)
            await save_checkpoint(connection, self.name, batch.checkpoint)
        if batch.messages:
            self._batch_s.observe(monotonic() - began_s)
            self._folded.inc(len(batch.messages))
            if self._committed is not None:
                await self._committed()
        if self._spans:
            fold_spans.of_batch(self.name, self.stream, good, started_ms)
        if unfoldable:
            await self._parking.count()

    async def _halt(self, reason: str) -> None:
        """Wait until an operator has reset the checkpoint."""
        log.error("projection halted", projection=self.name, reason=reason)
        self._problem = f"halted: {reason}"
        halted_at = await self._checkpoint()
        self._lag.halt(halted_at)
        while await self._checkpoint() == halted_at:  # noqa: ASYNC110 - reset by another process
            await asyncio.sleep(HALTED_POLL_S)
        self._lag.go_on()

    async def _checkpoint(self) -> Checkpoint | None:
        async with self._database.engine.begin() as connection:
            return await read_checkpoint(connection, self.name)
