"""Facts of which their service keeps no table: stated from memory, and lost with the process.

Emits: such facts on EVENTS, in order. Each is its own aggregate: the event's id, version 1.
Guarantees: who adds one does not wait. What is added waits while the bus is away, MOST_WAITING at a
time; what finds no room is counted, and lost.
On a repeat (a publish in doubt): the same event id, once more.
"""

import asyncio
from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events.base import Envelope, Event, data_of

from webhost_kit.batching import Batcher
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish
from webhost_kit.eventsourcing.store import new_id

log = structlog.get_logger(__name__)

MOST_WAITING = 1_000
RETRY_S = 0.5
DRAIN_S = 2.0

_lost = Counter(
    "webhost_unstored_facts_lost_total",
    "Facts for the audit that are stated from memory, and found no room there while the bus was "
    "away",
)


def envelope_of(
    fact: Event,
    *,
    user_id: str,
    at_ms: int,
    actor: str,
    request_id: str,
    traceparent: str | None,
) -> Envelope:
    """Return a new fact that is its own aggregate."""
    event_id = new_id(ids.EVENT, at_ms)
    return Envelope(
        event_id=event_id,
        aggregate_id=event_id,
        version=1,
        user_id=user_id,
        occurred_at_ms=at_ms,
        actor=actor,
        data=data_of(fact),
        request_id=request_id,
        traceparent=traceparent,
    )


class UnstoredFacts:
    """States facts that are kept in no table."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._batcher: Batcher[Message] = Batcher(
            self._publish, name="unstored_facts", max_waiting=MOST_WAITING
        )
        self.run = self._batcher.run

    def add(
        self,
        fact: Event,
        *,
        user_id: str,
        at_ms: int,
        actor: str,
        request_id: str,
        traceparent: str | None,
    ) -> None:
        """State this fact about the user, soon."""
        envelope = envelope_of(
            fact,
            user_id=user_id,
            at_ms=at_ms,
            actor=actor,
            request_id=request_id,
            traceparent=traceparent,
        )
        event_id = envelope.event_id
        subject = fact.published_on(user_id, event_id)
        headers = {subjects.TYPE_HEADER: fact.type_name()}
        try:
            self._batcher.add(Message(subject, wire.encode(envelope), headers, event_id))
        except asyncio.QueueFull:
            _lost.inc()

    async def close(self) -> None:
        """Publish what waits, at shutdown, within a bounded time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._batcher.flush()

    async def _publish(self, batch: list[Message]) -> None:
        while batch:
            try:
                await publish(self._bus, batch[0])
            except (NatsError, TimeoutError, OSError) as error:
                log.warning("a fact waits to be stated", error=repr(error))
                await asyncio.sleep(RETRY_S)
            else:
                del batch[0]
