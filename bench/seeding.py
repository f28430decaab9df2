"""Facts put onto the streams before anything is measured: agents that can be called, and usage."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from webhost_contracts import ids, subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.events import (
    AgentCreated,
    DeploymentActivated,
    DeploymentStarted,
    DeploymentSucceeded,
    Envelope,
    Event,
)
from webhost_contracts.events.base import data_of
from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import MOST, Message, publish_together
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

PROVIDER = "cloudflare"


@dataclass(frozen=True)
class Agent:
    """An agent with one deployment, to which its pointer leads."""

    agent_id: str
    deployment_id: str
    user_id: str


def fact(
    aggregate_id: str, version: int, user_id: str, event: Event, subject: str | None = None
) -> Message:
    """Return a fact as its owner would publish it."""
    envelope = Envelope(
        event_id=new_id(ids.EVENT, now_ms()),
        aggregate_id=aggregate_id,
        version=version,
        user_id=user_id,
        occurred_at_ms=now_ms(),
        actor="bench",
        data=data_of(event),
    )
    return Message(
        subject or event.published_on(user_id, aggregate_id),
        wire.encode(envelope),
        {subjects.TYPE_HEADER: event.type_name()},
        envelope.event_id,
    )


def new_agent(user_id: str) -> Agent:
    """Return an agent that does not exist yet."""
    return Agent(new_id(ids.AGENT, now_ms()), new_id(ids.DEPLOYMENT, now_ms()), user_id)


def life(agent: Agent) -> list[Message]:
    """Return what makes an agent callable, and its deployment known to telemetry-ingest."""
    return [
        fact(agent.agent_id, 1, agent.user_id, AgentCreated(name=agent.agent_id)),
        *deployed(agent, agent.deployment_id),
        pointed(agent, 2, agent.deployment_id),
    ]


def deployed(agent: Agent, deployment_id: str) -> list[Message]:
    """Return the facts of a deployment that answers."""
    started = DeploymentStarted(
        agent_id=agent.agent_id,
        deployment_version=1,
        tier="free",
        runtime_provider=PROVIDER,
        artifact=Artifact(type=MODULES_TYPE, checksum="sha256:00", size_bytes=1),
        main_module_name="index.mjs",
        invoke_path="/invoke",
        compatibility_date="2026-01-01",
        key_version=1,
        key_generation=1,
    )
    succeeded = DeploymentSucceeded(
        agent_id=agent.agent_id,
        worker_name=f"whs-{ids.suffix(deployment_id)}",
        invoke_url=f"https://workers.localhost/dep/{deployment_id}/invoke",
    )
    return [
        fact(deployment_id, 1, agent.user_id, started),
        fact(deployment_id, 2, agent.user_id, succeeded),
    ]


def pointed(agent: Agent, version: int, deployment_id: str) -> Message:
    """Return the fact that the agent's pointer was set."""
    activated = DeploymentActivated(
        deployment_id=deployment_id, pointer_revision=version - 1, cause="activate"
    )
    return fact(agent.agent_id, version, agent.user_id, activated)


async def publish(bus: Bus, stream: str, messages: Iterable[Message]) -> int:
    """Put messages onto a stream in atomic batches; return how many there were.

    A stream that is not declared to take batches takes them for the time of this call.
    """
    [declared] = [config for config in streams.STREAMS if config.name == stream]
    if not declared.allow_atomic:
        await bus.js.update_stream(replace(declared, allow_atomic=True))
    waiting = iter(messages)
    count = 0
    while batch := list(itertools.islice(waiting, MOST)):
        await publish_together(bus, batch)
        count += len(batch)
    if not declared.allow_atomic:
        await bus.js.update_stream(replace(declared, allow_atomic=False))
    return count
