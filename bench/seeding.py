"""Facts put onto the streams before anything is measured: agents that can be called, and usage."""

import itertools
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from webhost_contracts import api_keys, ids, subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.events import (
    AgentCreated,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentRequested,
    DeploymentStarted,
    DeploymentSucceeded,
    Envelope,
    Event,
    KeyCreated,
)
from webhost_contracts.events.base import data_of
from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import MOST, Message, publish_together
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

PROVIDER = "cloudflare"
ARTIFACT = Artifact(type=MODULES_TYPE, checksum="sha256:00", size_bytes=1)


@dataclass(frozen=True)
class Agent:
    """An agent with one deployment, to which its pointer leads."""

    agent_id: str
    deployment_id: str
    user_id: str


def envelope(aggregate_id: str, version: int, user_id: str, event: Event) -> Envelope:
    """Return a fact as its owner would state it."""
    at_ms = now_ms()
    return Envelope(
        event_id=new_id(ids.EVENT, at_ms),
        aggregate_id=aggregate_id,
        version=version,
        user_id=user_id,
        occurred_at_ms=at_ms,
        actor="bench",
        data=data_of(event),
    )


def fact(aggregate_id: str, version: int, user_id: str, event: Event) -> Message:
    """Return a fact as its owner would publish it."""
    stated = envelope(aggregate_id, version, user_id, event)
    subject = event.published_on(user_id, aggregate_id)
    headers = {subjects.TYPE_HEADER: event.type_name()}
    return Message(subject, wire.encode(stated), headers, stated.event_id)


def new_agent(user_id: str) -> Agent:
    """Return an agent that does not exist yet."""
    return Agent(new_id(ids.AGENT, now_ms()), new_id(ids.DEPLOYMENT, now_ms()), user_id)


def life(agent: Agent, invoke_url: str | None = None) -> list[Message]:
    """Return what makes an agent callable, and its deployment known to telemetry-ingest.

    It is called at `invoke_url`, or at an address that stands for any.
    """
    return [
        fact(agent.agent_id, 1, agent.user_id, AgentCreated(name=agent.agent_id)),
        *deployed(agent, agent.deployment_id, invoke_url=invoke_url),
        pointed(agent, 2, agent.deployment_id),
    ]


def two_deployments(agent: Agent, other: str) -> list[Message]:
    """Return the whole history of an agent with a second deployment, which its pointer names.

    The api recovers its own part of it from the stream, as after a restore.
    """
    messages = [fact(agent.agent_id, 1, agent.user_id, AgentCreated(name=agent.agent_id))]
    for number, deployment_id in enumerate((agent.deployment_id, other)):
        requested = DeploymentRequested(
            deployment_id=deployment_id,
            deployment_version=number + 1,
            runtime_provider=PROVIDER,
            artifact=ARTIFACT,
            main_module_name="index.mjs",
            invoke_path="/invoke",
            set_as_active=True,
            pointer_revision=number,
            compatibility_date="2026-01-01",
        )
        ended = DeploymentEnded(deployment_id=deployment_id, outcome="succeeded")
        activated = DeploymentActivated(
            deployment_id=deployment_id, pointer_revision=number + 1, cause="deploy"
        )
        messages += [
            *(
                fact(agent.agent_id, 2 + 3 * number + place, agent.user_id, event)
                for place, event in enumerate((requested, ended, activated))
            ),
            *deployed(agent, deployment_id, number + 1),
        ]
    return messages


def deployed(
    agent: Agent, deployment_id: str, version: int = 1, *, invoke_url: str | None = None
) -> list[Message]:
    """Return the facts of a deployment that answers."""
    started = DeploymentStarted(
        agent_id=agent.agent_id,
        deployment_version=version,
        tier="free",
        runtime_provider=PROVIDER,
        artifact=ARTIFACT,
        main_module_name="index.mjs",
        invoke_path="/invoke",
        compatibility_date="2026-01-01",
        key_version=1,
        key_generation=1,
    )
    succeeded = DeploymentSucceeded(
        agent_id=agent.agent_id,
        worker_name=f"whs-{ids.suffix(deployment_id)}",
        invoke_url=invoke_url or f"https://workers.localhost/dep/{deployment_id}/invoke",
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


def api_key(user_id: str) -> tuple[str, Message]:
    """Return an API key that may call, as its user gets it, and the fact that it was made."""
    key_id, secret = new_id(ids.KEY, now_ms()), secrets.token_bytes(api_keys.SECRET_BYTES)
    created = KeyCreated(name="bench", scopes=("invoke",), secret_hash=api_keys.hash_of(secret))
    return api_keys.token_of(key_id, secret), fact(key_id, 1, user_id, created)


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
