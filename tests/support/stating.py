"""Stating facts in tests as their owners would, straight onto the streams."""

from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.events.base import Event, data_of
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id


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


async def state(bus: Bus, subject: str, stated: Envelope) -> None:
    """Publish a fact and wait until it is stored."""
    await bus.js.publish(
        subject,
        wire.encode(stated),
        headers={
            subjects.TYPE_HEADER: stated.type_name(),
            subjects.MESSAGE_ID_HEADER: stated.event_id,
        },
    )
