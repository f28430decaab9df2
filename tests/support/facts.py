"""Facts in tests: stated as their owners would, read from the streams."""

from collections.abc import Mapping

from nats.js.api import DeliverPolicy
from webhost_contracts import ids, subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.events import DeploymentStarted, Envelope
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


def deployment_started(agent_id: str) -> DeploymentStarted:
    """Return the fact that a deployment of this agent was begun."""
    return DeploymentStarted(
        agent_id=agent_id,
        deployment_version=1,
        tier="free",
        runtime_provider="cloudflare",
        artifact=Artifact(type=MODULES_TYPE, checksum="sha256:00", size_bytes=1),
        main_module_name="index.mjs",
        invoke_path="/invoke",
        compatibility_date="2026-01-01",
        key_version=1,
        key_generation=1,
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
