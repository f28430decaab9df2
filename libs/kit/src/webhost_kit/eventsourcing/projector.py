"""The one projector: folds a stream into the service's own Postgres.

Consumes: one stream, from the projection's checkpoint.
Guarantees: the fold's rows and the checkpoint are one transaction, so each message is folded
exactly once however often the process dies. One process folds at a time, and is replaced when it
hangs or receives nothing. A fold that also appends facts or commands through the outbox is a
reactor: its decisions are in the same transaction. What the fold cannot use is parked, with the
later events of its aggregate, while everything else continues. A fact on a subject that is not its
own is refused: parked as well, unless there are many, and never a reason to halt.
On replay (no checkpoint, or a reset one): from the start of the stream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import monotonic

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import wire
from webhost_contracts.events.base import Event

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Batch, Checkpoint, StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away, is_conflict
from webhost_kit.database.engine import Database
from webhost_kit.database.leadership import Leadership, end_lock_sessions
from webhost_kit.errors import CheckpointMoved, StreamDiverged, Unavailable, VersionConflict
from webhost_kit.eventsourcing import fold_spans, parked
from webhost_kit.eventsourcing.checkpoints import (
    read_checkpoint,
    require_checkpoint,
    reset_checkpoint,
    save_checkpoint,
)
from webhost_kit.eventsourcing.facts import Fact, Unfoldable, decoded, fact_of
from webhost_kit.eventsourcing.lag import Lag
from webhost_kit.process.metrics import MOMENT_S, HotHistogram, ReadGauge

log = structlog.get_logger(__name__)

RETRY_S = 0.5
HALTED_POLL_S = 1.0
MOST_PARKED = 1_000
"""More parked events than this mean a broken fold: the projection halts."""
MOST_REFUSED = 100
"""With this many parked, what is refused is only logged and counted."""

Fold = Callable[[AsyncConnection, Sequence[Fact], Checkpoint], Awaitable[None]]
"""Writes what the facts mean, on the given connection. Gets the checkpoint after the batch."""

Committed = Callable[[], Awaitable[None]]
"""Runs after a batch was committed, before the next is folded."""

Reset = Callable[[AsyncConnection], Awaitable[None]]
"""Removes the projection's rows, in the transaction that resets its checkpoint."""

_folded = Counter(
    "webhost_projector_messages_folded_total",
    "Messages of a stream that were folded",
    ["projection"],
)
_batch = HotHistogram(
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
_refused = Counter(
    "webhost_projector_facts_refused_total",
    "Facts on a subject that is not theirs: somebody states what it does not own",
    ["projection"],
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
        self._types = types
        self._fold = fold
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
        self._parked = 0
        self._lag = Lag(self._family, self._partition, self._reader)
        self._batch_s = _batch.labels(self._family)
        self._folded = _folded.labels(self._family)
        self._refused = _refused.labels(self._family)
        _parked.read(
            lambda: self._parked if self._projecting else None, self._family, self._partition
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
        return f"{self._parked} parked" if self._projecting and self._parked else None

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
        await self._count_parked()
        replay = self._parked > 0
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
        async with self._database.transaction() as connection:
            waiting = await parked.list_parked(connection, self.name)
        stuck: set[str] = set()
        folded = 0
        for event in waiting:
            if event.aggregate_id in stuck:
                continue
            if await self._folded_again(event):
                folded += 1
            elif event.aggregate_id is not None:
                stuck.add(event.aggregate_id)
        async with self._database.transaction() as connection:
            self._parked = await parked.count_parked(connection, self.name)
            if folded and not self._projecting:
                # The process that folds counts again when it starts over.
                await end_lock_sessions(connection, self._lock_session)
        return folded, self._parked

    async def _folded_again(self, event: parked.ParkedEvent) -> bool:
        fact = fact_of(
            event.sequence,
            event.recorded_at_ms,
            event.index,
            event.subject,
            event.body,
            self._types,
        )
        if fact is None:
            return False
        try:
            async with self._database.transaction() as connection:
                checkpoint = await read_checkpoint(connection, self.name, lock=True)
                await self._fold(connection, [fact], checkpoint or Checkpoint("", 0, None))
                await parked.remove(connection, [event])
        except Unavailable:
            raise
        except Exception as error:
            if isinstance(error, VersionConflict) or is_conflict(error):
                raise Unavailable("Another transaction was in the way; try again.") from error
            log.warning("still not folded", projection=self.name, error=repr(error))
            return False
        if self._committed is not None:
            await self._committed()
        return True

    async def _apply(self, batch: Batch, expected: Checkpoint | None) -> None:
        if batch.checkpoint == expected or (expected is None and not batch.messages):
            return
        began_s = monotonic()
        started_ms = now_ms()
        async with self._database.engine.begin() as connection:
            await require_checkpoint(connection, self.name, expected)
            good, unfoldable = await self._sorted(connection, batch)
            if good:
                unfoldable += await self._folded_or_parked(connection, good, batch.checkpoint)
            if unfoldable:
                await self._park(connection, unfoldable)
            await save_checkpoint(connection, self.name, batch.checkpoint)
        if batch.messages:
            self._batch_s.observe(monotonic() - began_s)
            self._folded.inc(len(batch.messages))
            if self._committed is not None:
                await self._committed()
        if self._spans:
            fold_spans.of_batch(self.name, self.stream, good, started_ms)
        if unfoldable:
            await self._count_parked()

    async def _sorted(
        self, connection: AsyncConnection, batch: Batch
    ) -> tuple[list[Fact], list[Unfoldable]]:
        """Separate what can be folded from what cannot, or must wait behind it."""
        held_back: set[str] = set()
        if self._parked:
            held_back = await parked.parked_aggregates(connection, self.name)
        good: list[Fact] = []
        unfoldable: list[Unfoldable] = []
        for one in decoded(batch.messages, self._types):
            if isinstance(one, Unfoldable):
                unfoldable.append(one)
                if one.aggregate_id is not None:
                    held_back.add(one.aggregate_id)
            elif one.envelope.aggregate_id in held_back:
                unfoldable.append(parked.behind(one, wire.encode(one.envelope)))
            else:
                good.append(one)
        return good, unfoldable

    async def _folded_or_parked(
        self, connection: AsyncConnection, facts: Sequence[Fact], behind: Checkpoint
    ) -> list[Unfoldable]:
        """Fold these; return those that cannot be, found by halving, and what waits for them."""
        try:
            async with connection.begin_nested():
                await self._fold(connection, facts, behind)
        except Exception as error:
            if _is_infrastructure_error(error):
                raise
            if len(facts) > 1:
                return await self._halved(connection, facts, behind)
            [fact] = facts
            return [parked.unfolded(fact, wire.encode(fact.envelope), repr(error))]
        return []

    async def _halved(
        self, connection: AsyncConnection, facts: Sequence[Fact], behind: Checkpoint
    ) -> list[Unfoldable]:
        middle = len(facts) // 2
        found = await self._folded_or_parked(connection, facts[:middle], behind)
        held_back = {one.aggregate_id for one in found}
        rest: list[Fact] = []
        for fact in facts[middle:]:
            if fact.envelope.aggregate_id in held_back:
                found.append(parked.behind(fact, wire.encode(fact.envelope)))
            else:
                rest.append(fact)
        return found + (await self._folded_or_parked(connection, rest, behind) if rest else [])

    async def _park(self, connection: AsyncConnection, unfoldable: Sequence[Unfoldable]) -> None:
        refused = [one for one in unfoldable if one.refused]
        self._refused.inc(len(refused))
        for one in refused:
            log.error(
                "fact refused", projection=self.name, sequence=one.sequence, reason=one.reason
            )
        room = max(MOST_REFUSED - self._parked, 0)
        unfoldable = [*(one for one in unfoldable if not one.refused), *refused[:room]]
        if self._parked + len(unfoldable) > MOST_PARKED:
            raise StreamDiverged(
                f"{self._parked + len(unfoldable)} events of {self.stream} cannot be folded; the "
                f"reason for the last one: {unfoldable[-1].reason}"
            )
        await parked.park(connection, self.name, unfoldable)
        for one in unfoldable:
            if one.refused:
                continue
            log.error(
                "event parked",
                projection=self.name,
                sequence=one.sequence,
                aggregate=one.aggregate_id,
                version=one.version,
                reason=one.reason,
            )

    async def _count_parked(self) -> None:
        async with self._database.engine.begin() as connection:
            self._parked = await parked.count_parked(connection, self.name)

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


def _is_infrastructure_error(error: Exception) -> bool:
    return (
        is_away(error)
        or is_conflict(error)
        or isinstance(error, Unavailable | VersionConflict | CheckpointMoved | StreamDiverged)
    )
