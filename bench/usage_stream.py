"""A stream of usage as gateways and telemetry-ingest would leave it."""

import itertools
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from webhost_billing.partitions import checkpoint_name
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope, InvocationFinished, TelemetryAccepted
from webhost_contracts.events.packets import PACKET as PACKET_TYPE
from webhost_contracts.events.packets import pack
from webhost_contracts.events.telemetry import dedupe_key
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.publishing import Message
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from bench import seeding
from bench.seeding import Agent

USERS = 100
AGENTS = 500
PACKET = {subjects.GATEWAY: 8, subjects.TELEMETRY_INGEST: 4}
"""Facts per message, about what both produce at 2,500 calls a second: a producer's concurrent facts
are spread over 16 partitions."""


@dataclass(frozen=True)
class Seeded:
    """What is on the stream: facts, messages, and each partition's last sequence."""

    facts: int = 0
    messages: int = 0
    last: dict[str, int] = field(default_factory=dict[str, int])
    """By the name of billing's checkpoint."""


async def seed(
    nats_url: str, calls: int, before: Seeded, *, users: int = USERS, agents: int = AGENTS
) -> Seeded:
    """Put so many calls more onto the stream; return what it holds then."""
    bus = await connect(nats_url, "bench")
    try:
        messages = await seeding.publish(bus, subjects.USAGE, packets(calls, users, agents))
        last = {
            checkpoint_name(partition): message.seq or 0
            for partition in range(subjects.PARTITIONS)
            if (message := await _last(bus, partition)) is not None
        }
        return Seeded(before.facts + 2 * calls, before.messages + messages, last)
    finally:
        await bus.close()


async def _last(bus: Bus, partition: int) -> RawStreamMsg | None:
    with suppress(NotFoundError):
        return await bus.js.get_last_msg(subjects.USAGE, subjects.usage_partition(partition))
    return None


def packets(calls: int, users: int, agents: int) -> Iterator[Message]:
    """Yield both reports of each call, about in the order in which they would come."""
    owners = [ids.user_id("bench", f"user {number}") for number in range(users)]
    known = [seeding.new_agent(user) for user in itertools.islice(itertools.cycle(owners), agents)]
    waiting: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for agent in itertools.islice(itertools.cycle(known), calls):
        partition = subjects.partition_of(agent.user_id)
        for producer, envelope in _call(agent):
            key = (partition, producer)
            waiting[key].append(wire.encode(envelope))
            if len(waiting[key]) == PACKET[producer]:
                yield _packet(*key, waiting.pop(key))
    for key, bodies in waiting.items():
        yield _packet(*key, bodies)


def _packet(partition: int, producer: str, bodies: list[bytes]) -> Message:
    subject = subjects.usage_packets(partition, producer)
    return Message(subject, pack(bodies), {subjects.TYPE_HEADER: PACKET_TYPE})


def _call(agent: Agent) -> Iterator[tuple[str, Envelope]]:
    at_ms = now_ms()
    invocation_id = new_id(ids.INVOCATION, at_ms)
    finished = InvocationFinished(
        agent_id=agent.agent_id,
        deployment_id=agent.deployment_id,
        runtime_provider=seeding.PROVIDER,
        trace_id="bench-1",
        admitted_at_ms=at_ms,
        outcome="succeeded",
        wall_ms=40 + secrets.randbelow(100),
    )
    reported = TelemetryAccepted(
        agent_id=agent.agent_id,
        deployment_id=agent.deployment_id,
        runtime_provider=seeding.PROVIDER,
        dedupe_key=dedupe_key(invocation_id, None, ""),
        timestamp_ms=at_ms,
        requests=1,
        llm_tokens=100 + secrets.randbelow(1000),
        compute_ms=20 + secrets.randbelow(100),
        errors=0,
        tool_calls=1,
        trace_id="bench-1",
    )
    yield subjects.GATEWAY, seeding.envelope(invocation_id, 1, agent.user_id, finished)
    event_id = new_id(ids.EVENT, at_ms)
    yield subjects.TELEMETRY_INGEST, seeding.envelope(event_id, 1, agent.user_id, reported)
