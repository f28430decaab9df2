"""Pure: when a period is closed for good, and which reports come too late for it.

A period is sealed in a partition once the stream's own time is SEAL_DELAY_MS beyond its end:
telemetry is accepted for 35 days, and a day is left for what was accepted and is not yet on the
stream. The first message with such a timestamp decides; a clock that goes back behind it opens
nothing again. What is recorded is the position, and from
then on it alone decides: a report of the period at or before the seal's sequence counts, one behind
it is too late. So whoever folds the same stream again comes to the same result, whatever its clock
and its delay.

One seal closes every earlier period with it. An invocation that was charged to a closed period is
not known any more: its charge stays, and a report behind the seal that names an open period is the
first of its invocation.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from webhost_contracts import subjects
from webhost_contracts.periods import HOUR_MS, next_period, period_key, previous_period, start_ms

ACCEPTED_DAYS = 35
"""How long after a call telemetry-ingest accepts its report."""
MARGIN_DAYS = 1
SEAL_DELAY_MS = (ACCEPTED_DAYS + MARGIN_DAYS) * 24 * HOUR_MS
EARLY_MS = HOUR_MS
"""No report of a period is on the stream earlier than this before its beginning."""
NEVER = ""
"""The last period that is closed, where none is."""
ALWAYS = -1
"""The sequence of a seal that lies before anything that the stream holds."""


@dataclass(frozen=True)
class Seal:
    """In one partition, the periods up to `through` are closed behind this sequence."""

    partition: int
    through: str
    sequence: int


class Seals:
    """The seals of some partitions: which period is closed at which position."""

    def __init__(self, seals: Iterable[Seal] = ()) -> None:
        self._by_partition: dict[int, tuple[list[str], list[int]]] = {}
        self._newest = NEVER
        for seal in sorted(seals, key=lambda seal: (seal.partition, seal.through)):
            throughs, sequences = self._by_partition.setdefault(seal.partition, ([], []))
            throughs.append(seal.through)
            sequences.append(seal.sequence)
            self._newest = max(self._newest, seal.through)

    def close(self, user_id: str, period: str, sequence: int) -> bool:
        """Say whether a user's period is closed at this sequence."""
        if period > self._newest:
            return False
        throughs, sequences = self._by_partition.get(subjects.partition_of(user_id), ([], []))
        first = bisect.bisect_left(throughs, period)
        return first < len(throughs) and sequence > sequences[first]


NO_SEALS = Seals()


@dataclass(frozen=True)
class StreamPlace:
    """How far a partition is: the last period that is closed in its rows.

    `stated` are seals that this database has not applied yet: billing stated them before it was
    restored to an earlier time.
    """

    partition: int
    through: str = NEVER
    stated: tuple[Seal, ...] = ()


class Message(Protocol):
    """What of a fact says when and where it came."""

    @property
    def sequence(self) -> int: ...
    @property
    def recorded_at_ms(self) -> int: ...


M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Part(Generic[M]):
    """Facts that are folded between two seals; `seal` is to be applied before them."""

    seal: Seal | None
    facts: Sequence[M]


def divide(
    place: StreamPlace, facts: Iterable[M], delay_ms: int
) -> tuple[StreamPlace, list[Part[M]]]:
    """Divide a batch, in the stream's order, at the seals that become due in it.

    Returns the place behind it too. A seal is due at the first message whose timestamp reaches it,
    and closes what is before that message.
    """
    parts: list[Part[M]] = []
    seal: Seal | None = None
    open_facts: list[M] = []
    packet: tuple[int, int] | None = None
    for fact in facts:
        # The facts of one packet have one place and one time.
        if packet != (fact.sequence, fact.recorded_at_ms):
            packet = fact.sequence, fact.recorded_at_ms
            for due in _due(place, fact, delay_ms):
                if open_facts or seal is not None:
                    parts.append(Part(seal, open_facts))
                seal, open_facts = due, []
                place = _behind(place, due)
        open_facts.append(fact)
    parts.append(Part(seal, open_facts))
    return place, parts


def due_when_idle(
    place: StreamPlace, newest: Message, checkpoint: int, delay_ms: int
) -> Seal | None:
    """Return the seal of a partition that was read up to the checkpoint and has nothing behind it.

    `newest` was the stream's newest message, of any partition, before the checkpoint was read.
    """
    for stated in place.stated:
        if stated.sequence <= newest.sequence:
            return stated
    stream_time_ms = newest.recorded_at_ms
    through = _through(place.stated, stream_time_ms, delay_ms)
    return Seal(place.partition, through, checkpoint) if through > place.through else None


def open_from_ms(closed: str) -> int:
    """Return the first instant (Unix milliseconds) behind the last period that is closed."""
    return 0 if closed == NEVER else start_ms(next_period(closed))


def first_whole_period(first_at_ms: int) -> str:
    """Return the first period of which a stream that begins at this time holds everything."""
    return next_period(period_key(first_at_ms + EARLY_MS - 1))


def _due(place: StreamPlace, message: Message, delay_ms: int) -> list[Seal]:
    due = [seal for seal in place.stated if seal.sequence < message.sequence]
    waiting = [seal for seal in place.stated if seal.sequence >= message.sequence]
    through = _through(waiting, message.recorded_at_ms, delay_ms)
    if through > max([place.through, *(seal.through for seal in due)]):
        due.append(Seal(place.partition, through, message.sequence - 1))
    return due


def _through(waiting: Iterable[Seal], time_ms: int, delay_ms: int) -> str:
    """Return the last period that this time closes; what was stated is closed where it says."""
    through = previous_period(period_key(time_ms - delay_ms))
    return min([through, *(previous_period(seal.through) for seal in waiting)])


def _behind(place: StreamPlace, applied: Seal) -> StreamPlace:
    stated = tuple(seal for seal in place.stated if seal.through > applied.through)
    return replace(place, through=max(place.through, applied.through), stated=stated)
