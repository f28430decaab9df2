"""What users ask for: load the state, decide, append, save, command; one transaction each.

Consumes: requests of users who were authenticated. Emits: facts about agents on EVENTS, commands
to the deployer on COMMANDS. Guarantees: the fact, its state row and its command are written
together or not at all; a foreign, a deleted and a missing agent look the same.
On replay: a request that comes again under its idempotency key does not reach a handler.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids, subjects
from webhost_contracts.commands import DEPLOY, TEAR_DOWN_AGENT, Deploy, TearDownAgent
from webhost_contracts.entitlements import DEFAULT_TIER, Entitlements
from webhost_contracts.events import AgentDeleted, DeploymentRequested, Envelope, Event
from webhost_kit.errors import NotFound
from webhost_kit.eventsourcing.store import EventMetadata, append, new_id, send

from webhost_api import decisions, model, store
from webhost_api.decisions import CreateAgent, RequestDeployment, UpdateAgent
from webhost_api.model import Agent, Deployment
from webhost_api.tables import accounts, agents, users

Tiers = dict[str, Entitlements]


@dataclass(frozen=True)
class Caller:
    """Who asks, on what occasion. The user comes from the token and from nowhere else."""

    user_id: str
    metadata: EventMetadata


def agent_not_found() -> NotFound:
    """Return the one answer for an agent that is missing, deleted or someone else's."""
    return NotFound("There is no such agent.")


def deployment_not_found() -> NotFound:
    """Return the one answer for a deployment that is missing or someone else's."""
    return NotFound("There is no such deployment.")


async def create_agent(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, agent_id: str, command: CreateAgent
) -> Agent:
    """Make an agent. Raises LimitExceeded, InvalidRequest, or Conflict where the name is taken."""
    # Whoever else creates for this user waits here, so that the count is exact.
    await connection.execute(
        sa.select(users.c.user_id).where(users.c.user_id == caller.user_id).with_for_update()
    )
    existing = await connection.scalar(
        sa.select(sa.func.count())
        .select_from(agents)
        .where(agents.c.user_id == caller.user_id, agents.c.deleted_at_ms.is_(None))
    )
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    event = decisions.create(command, existing or 0, entitlements)
    who = caller.metadata
    await append(connection, agent_id, caller.user_id, 0, [event], who)
    agent = model.created(agent_id, caller.user_id, event, who.at_ms)
    await store.save(connection, None, agent)
    return agent


async def update_agent(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, agent_id: str, command: UpdateAgent
) -> Agent:
    """Change an agent's description of itself. Raises NotFound, Conflict, and the tier's gates."""
    agent = await _owned(connection, caller, agent_id)
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    events = decisions.update(agent, command, entitlements)
    return (await record(connection, agent, events, caller.metadata)).agent


async def switch_agent(
    connection: AsyncConnection,
    caller: Caller,
    agent_id: str,
    decide: Callable[[Agent], list[Event]],
) -> Agent:
    """Disable or enable an agent. Raises NotFound."""
    agent = await _owned(connection, caller, agent_id)
    return (await record(connection, agent, decide(agent), caller.metadata)).agent


async def delete_agent(connection: AsyncConnection, caller: Caller, agent_id: str) -> Agent:
    """Make an agent a tombstone, and let the deployer remove what it has. Raises NotFound."""
    agent = await _owned(connection, caller, agent_id)
    recorded = await record(connection, agent, decisions.delete(agent), caller.metadata)
    cause = recorded.envelope_of(AgentDeleted)
    await send(
        connection,
        subjects.command("deployer", TEAR_DOWN_AGENT, agent_id),
        TearDownAgent(
            command_id=new_id(ids.COMMAND, cause.occurred_at_ms),
            causation_id=cause.event_id,
            user_id=agent.user_id,
            agent_id=agent.id,
            request_id=cause.request_id,
            traceparent=cause.traceparent,
        ),
    )
    return recorded.agent


async def request_deployment(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    agent_id: str,
    command: RequestDeployment,
) -> Deployment:
    """Start a deployment. Raises NotFound, Conflict, and the tier's gates."""
    agent = await _owned(connection, caller, agent_id)
    tier, entitlements = await tier_of(connection, tiers, caller.user_id)
    events = decisions.request_deployment(agent, command, entitlements)
    recorded = await record(connection, agent, events, caller.metadata)
    cause = recorded.envelope_of(DeploymentRequested)
    deployment = recorded.agent.deployments[command.deployment_id]
    await send(
        connection,
        subjects.command("deployer", DEPLOY, agent_id),
        Deploy(
            command_id=new_id(ids.COMMAND, cause.occurred_at_ms),
            causation_id=cause.event_id,
            user_id=agent.user_id,
            agent_id=agent.id,
            request_id=cause.request_id,
            traceparent=cause.traceparent,
            deployment_id=deployment.id,
            deployment_version=deployment.version,
            tier=tier,
            runtime_provider=deployment.runtime_provider,
            artifact=deployment.artifact,
            main_module_name=deployment.main_module_name,
            invoke_path=deployment.invoke_path,
            compatibility_date=deployment.compatibility_date,
        ),
    )
    return deployment


async def activate(
    connection: AsyncConnection,
    caller: Caller,
    agent_id: str,
    deployment_id: str,
    reason: str | None,
) -> tuple[Agent, Deployment]:
    """Set the pointer. Raises NotFound, or Conflict in the wrong state."""
    agent = await _owned(connection, caller, agent_id, deployment_id)
    deployment = agent.deployments.get(deployment_id)
    if deployment is None:
        raise deployment_not_found()
    events = decisions.activate(agent, deployment, reason)
    agent = (await record(connection, agent, events, caller.metadata)).agent
    return agent, agent.deployments[deployment_id]


@dataclass(frozen=True)
class Recorded:
    """An agent after its newest facts, and those facts as they were appended."""

    agent: Agent
    events: Sequence[Event]
    envelopes: Sequence[Envelope]

    def envelope_of(self, kind: type[Event]) -> Envelope:
        """Return the envelope of the one fact of this kind."""
        return next(
            envelope
            for event, envelope in zip(self.events, self.envelopes, strict=True)
            if isinstance(event, kind)
        )


async def record(
    connection: AsyncConnection, agent: Agent, events: Sequence[Event], who: EventMetadata
) -> Recorded:
    """Append an agent's next facts, and save what `evolve` makes of them."""
    envelopes = await append(connection, agent.id, agent.user_id, agent.version, events, who)
    after = agent
    for event in events:
        after = model.evolve(after, event, who.at_ms)
    if events:
        await store.save(connection, agent, after)
    return Recorded(after, events, envelopes)


async def tier_of(
    connection: AsyncConnection, tiers: Tiers, user_id: str
) -> tuple[str, Entitlements]:
    """Return the user's tier and what it allows. A tier that the file lacks counts as `free`."""
    tier = await connection.scalar(sa.select(accounts.c.tier).where(accounts.c.user_id == user_id))
    name = tier if tier in tiers else DEFAULT_TIER
    return name, tiers[name]


async def _owned(
    connection: AsyncConnection, caller: Caller, agent_id: str, deployment_id: str | None = None
) -> Agent:
    agent = await store.load_for_decision(connection, agent_id, deployment_id)
    if agent is None or agent.user_id != caller.user_id or agent.deleted_at_ms is not None:
        raise agent_not_found()
    return agent
