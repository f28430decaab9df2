"""The one way from a decision to facts: append, evolve, save.

Guarantees: the facts, their outbox entries and the state that was made of them are written on the
caller's connection, so in one transaction. A decision that lost a race raises VersionConflict;
`Database.retry_conflicts` then lets the caller load and decide again.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.base import Envelope, Event

from webhost_kit.eventsourcing.store import EventMetadata, append


class State(Protocol):
    """What an aggregate's facts add up to; `version` counts them, 0 before the first."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def version(self) -> int: ...


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Appended(Generic[S]):
    """The state after a decision, and the facts that were decided, each with its envelope."""

    state: S
    facts: Sequence[tuple[Event, Envelope]]


@dataclass(frozen=True)
class Aggregate(Generic[S]):
    """One kind of aggregate: its pure fold, and how its state is written.

    `evolve` gets a state and its next fact; `save` the states before and after.
    """

    evolve: Callable[[S, Envelope, Event], S]
    save: Callable[[AsyncConnection, S, S], Awaitable[None]]

    async def append(
        self,
        connection: AsyncConnection,
        state: S,
        events: Sequence[Event],
        metadata: EventMetadata,
    ) -> Appended[S]:
        """Append the facts behind `state` and save what they make of it. No facts, no change.

        Raises VersionConflict.
        """
        if not events:
            return Appended(state, ())
        envelopes = await append(
            connection, state.id, state.user_id, state.version, events, metadata
        )
        after = state
        for envelope, event in zip(envelopes, events, strict=True):
            after = self.evolve(after, envelope, event)
        await self.save(connection, state, after)
        return Appended(after, tuple(zip(events, envelopes, strict=True)))
