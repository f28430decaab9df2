"""What a projection cannot fold: found, parked, and folded again later.

Consumes: the facts of a batch, in the projector's transaction; the rows of `parked`, on a replay.
Guarantees: one event that cannot be folded is parked, with the later events of its aggregate, and
everything else of the batch is folded. A fact on a subject that is not its own is refused: parked
as well, unless there are many. An error that says nothing about an event is raised.
On replay: each event is folded in a transaction of its own, in order, until one of its aggregate
cannot be.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import wire
from webhost_contracts.events.base import Event

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.reader import Batch
from webhost_kit.database.away import is_away, is_conflict
from webhost_kit.database.engine import Database
from webhost_kit.errors import CheckpointMoved, StreamDiverged, Unavailable, VersionConflict
from webhost_kit.eventsourcing import parked
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import Fact, Unfoldable, decoded, fact_of

log = structlog.get_logger(__name__)

MOST_PARKED = 1_000
"""More parked events than this mean a broken fold: the projection halts."""
MOST_REFUSED = 100
"""With this many parked, what is refused is only logged and counted."""

Fold = Callable[[AsyncConnection, Sequence[Fact], Checkpoint], Awaitable[None]]
"""Writes what the facts mean, on the given connection. Gets the checkpoint after the batch."""

_refused = Counter(
    "webhost_projector_facts_refused_total",
    "Facts on a subject that is not theirs: somebody states what it does not own",
    ["projection"],
)


class Parking:
    """Folds for one projection, and parks what it cannot fold."""

    def __init__(
        self,
        name: str,
        database: Database,
        stream: str,
        types: Mapping[str, type[Event]],
        fold: Fold,
        *,
        family: str,
    ) -> None:
        self._name = name
        self._database = database
        self._stream = stream
        self._types = types
        self._fold = fold
        self._refused = _refused.labels(family)
        self.parked = 0
        """How many events were parked when they were last counted."""

    async def count(self) -> None:
        """Count what is parked."""
        async with self._database.engine.begin() as connection:
            self.parked = await parked.count_parked(connection, self._name)

    async def fold(
        self, connection: AsyncConnection, batch: Batch
    ) -> tuple[list[Fact], list[Unfoldable]]:
        """Fold a batch; return the facts that could be read, and what was parked or refused.

        Raises StreamDiverged when too many would be parked.
        """
        good, unfoldable = await self._sorted(connection, batch)
        if good:
            unfoldable += await self._folded_or_parked(connection, good, batch.checkpoint)
        if unfoldable:
            await self._park(connection, unfoldable)
        return good, unfoldable

    async def fold_again(self, committed: Callable[[], Awaitable[None]] | None) -> int:
        """Fold what is parked again; return how many were folded. After each, call `committed`.

        Raises Unavailable when that says nothing about an event: it is to be done again.
        """
        async with self._database.transaction() as connection:
            waiting = await parked.list_parked(connection, self._name)
        stuck: set[str] = set()
        folded = 0
        for event in waiting:
            if event.aggregate_id in stuck:
                continue
            if await self._folded_again(event):
                folded += 1
                if committed is not None:
                    await committed()
            elif event.aggregate_id is not None:
                stuck.add(event.aggregate_id)
        return folded

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
                checkpoint = await read_checkpoint(connection, self._name, lock=True)
                await self._fold(connection, [fact], checkpoint or Checkpoint("", 0, None))
                await parked.remove(connection, [event])
        except Unavailable:
            raise
        except Exception as error:
            if isinstance(error, VersionConflict) or is_conflict(error):
                raise Unavailable("Another transaction was in the way; try again.") from error
            log.warning("still not folded", projection=self._name, error=repr(error))
            return False
        return True

    async def _sorted(
        self, connection: AsyncConnection, batch: Batch
    ) -> tuple[list[Fact], list[Unfoldable]]:
        """Separate what can be folded from what cannot, or must wait behind it."""
        held_back: set[str] = set()
        if self.parked:
            held_back = await parked.parked_aggregates(connection, self._name)
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
                "fact refused", projection=self._name, sequence=one.sequence, reason=one.reason
            )
        room = max(MOST_REFUSED - self.parked, 0)
        unfoldable = [*(one for one in unfoldable if not one.refused), *refused[:room]]
        if self.parked + len(unfoldable) > MOST_PARKED:
            raise StreamDiverged(
                f"{self.parked + len(unfoldable)} events of {self._stream} cannot be folded; the "
                f"reason for the last one: {unfoldable[-1].reason}"
            )
        await parked.park(connection, self._name, unfoldable)
        for one in unfoldable:
            if one.refused:
                continue
            log.error(
                "event parked",
                projection=self._name,
                sequence=one.sequence,
                aggregate=one.aggregate_id,
                version=one.version,
                reason=one.reason,
            )


def _is_infrastructure_error(error: Exception) -> bool:
    return (
        is_away(error)
        or is_conflict(error)
        or isinstance(error, Unavailable | VersionConflict | CheckpointMoved | StreamDiverged)
    )
