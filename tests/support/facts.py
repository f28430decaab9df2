"""Facts in tests: stated as their owners would, read from the streams, given to pure decisions.

given(evolve, Agent(), created).when(lambda agent: disable(agent)).then(AgentDisabled())
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest
from nats.js.api import DeliverPolicy
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.events.base import Event, data_of
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

State = TypeVar("State")


def envelope(
    user_id: str, aggregate_id: str, fact: Event, *, version: int = 1, at_ms: int | None = None
) -> Envelope:
    """A fact in its envelope."""
    at_ms = now_ms() if at_ms is None else at_ms
    return Envelope(
        event_id=new_id(ids.EVENT, at_ms),
        aggregate_id=aggregate_id,
        version=version,
        user_id=user_id,
        occurred_at_ms=at_ms,
        actor="test",
        data=data_of(fact),
    )


async def publish(bus: Bus, subject: str, stated: Envelope) -> None:
    """Publish a fact and wait until it is stored."""
    await bus.js.publish(
        subject,
        wire.encode(stated),
        headers={
            subjects.TYPE_HEADER: stated.type_name(),
            subjects.MESSAGE_ID_HEADER: stated.event_id,
        },
    )


async def stored(bus: Bus, stream: str, pattern: str) -> list[Envelope]:
    """What a stream holds on these subjects now, in order."""
    consumer = await bus.js.subscribe(
        pattern, stream=stream, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
    )
    info = await consumer.consumer_info()
    count = info.num_pending + info.delivered.consumer_seq
    messages = [await consumer.next_msg(timeout=5) for _ in range(count)]
    await consumer.unsubscribe()
    return [wire.decode(message.data, Envelope) for message in messages]


async def on_stream(
    bus: Bus, stream: str, pattern: str, types: Mapping[str, type[Event]]
) -> list[tuple[Envelope, Event]]:
    """What a stream holds of these types on these subjects, in order."""
    found = await stored(bus, stream, pattern)
    return [(each, event) for each in found if (event := each.event(dict(types))) is not None]


@dataclass(frozen=True)
class Given(Generic[State]):
    """A state that facts made, for a decision to be taken on."""

    state: State

    def when(self, decide: Callable[[State], Sequence[Event]]) -> "Decided":
        return Decided(lambda: decide(self.state))


@dataclass(frozen=True)
class Decided:
    """A decision that is taken when it is looked at."""

    take: Callable[[], Sequence[Event]]

    def then(self, *facts: Event) -> None:
        """Exactly these facts came of it, in this order."""
        assert list(self.take()) == list(facts)

    def then_refused(self, refusal: type[Exception], match: str = "") -> None:
        with pytest.raises(refusal, match=match):
            self.take()


def given(
    evolve: Callable[[State, Event, int], State], initial: State, *facts: Event, at_ms: int = 0
) -> Given[State]:
    """The state behind these facts, which all happened at `at_ms`."""
    state = initial
    for fact in facts:
        state = evolve(state, fact, at_ms)
    return Given(state)
