"""What users request: load, decide, append, evolve, save, command; one transaction each.

Consumes: requests of authenticated users. Emits: facts about agents on EVENTS, commands to the
deployer on COMMANDS. Guarantees: a fact, its state row and its command are written together or
not at all; a foreign, a deleted and a missing agent look the same.
On replay: a request that is repeated with its idempotency key does not reach a handler.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.api_keys import Presented
from webhost_contracts.entitlements import DEFAULT_TIER, Entitlements, known_tier
from webhost_contracts.events import Event
from webhost_kit.errors import AccountDisabled, NotFound, Unavailable
from webhost_kit.eventsourcing.aggregates import Appended
from webhost_kit.eventsourcing.store import EventMetadata, send

from webhost_api import bounds, decisions, model, store
from webhost_api.commands import Commands, subject_of
from webhost_api.decisions import DescribeAgent, RequestDeployment
from webhost_api.keys.model import ApiKey
from webhost_api.model import Agent, Deployment
from webhost_api.spending import spent_by
from webhost_api.store import AGENTS
from webhost_api.tables import accounts, agents, users

Tiers = dict[str, Entitlements]


@dataclass(frozen=True)
class Caller:
    """Who sent a request. The user comes from the token and from nowhere else."""

    user_id: str
    metadata: EventMetadata
    key: ApiKey | None = None
    """The API key, if the request came with one instead of a JWT."""
    presented: Presented | None = None
    """The key as it was sent."""
    good_until_ms: float = inf
    """When the token, or the key as it was sent, expires."""

    @property
    def agent_ids(self) -> tuple[str, ...] | None:
        """Return the agents that the request is limited to, None for no limit."""
        return None if self.key is None else self.key.agent_ids

    def require_agent(self, agent_id: str) -> None:
        """Raise NotFound for an agent that the request may not be about."""
        if self.agent_ids is not None and agent_id not in self.agent_ids:
            raise agent_not_found()


def agent_not_found() -> NotFound:
    """Return the one answer for an agent that is missing, deleted or someone else's."""
    return NotFound("There is no such agent.")


def deployment_not_found() -> NotFound:
    """Return the one answer for a deployment that is missing or someone else's."""
    return NotFound("There is no such deployment.")


def user_missing() -> Unavailable:
    """Return the answer for a caller who was registered in what was the database until now."""
    return Unavailable("The database was restored; try again shortly.")


async def create_agent(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, agent_id: str, command: DescribeAgent
) -> Agent:
    """Make an agent.

    Raises LimitExceeded, InvalidRequest, Unauthorized where the account is disabled, Conflict where
    the name is taken, or Unavailable where the user's row is missing.
    """
    await lock_user(connection, caller)
    await require_enabled(connection, caller.user_id)
    existing = await connection.scalar(
        sa.select(sa.func.count())
        .select_from(agents)
        .where(agents.c.user_id == caller.user_id, agents.c.deleted_at_ms.is_(None))
    )
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    events = decisions.create(command, existing or 0, entitlements)
    new = Agent(id=agent_id, user_id=caller.user_id)
    return (await _append(connection, caller, entitlements, new, events)).state


async def update_agent(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, agent_id: str, command: DescribeAgent
) -> Agent:
    """Change an agent's fields. Raises NotFound, Conflict, and what the tier's checks raise."""
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id)
    events = decisions.update(agent, command, entitlements)
    return (await _append(connection, caller, entitlements, agent, events)).state


async def check_update(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, agent_id: str, command: DescribeAgent
) -> tuple[Agent, list[str]]:
    """Return the agent, and the names that it would not declare any more.

    Raises what `update_agent` would raise now. Changes and locks nothing.
    """
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id, lock=False)
    events = decisions.update(agent, command, entitlements)
    await require_room(connection, caller, entitlements, events)
    if command.name is not None:
        await store.require_free_name(connection, agent, command.name)
    declared = agent.env_var_keys if command.env_var_keys is None else command.env_var_keys
    return agent, [key for key in agent.env_var_keys if key not in declared]


async def secrets_changed(
    connection: AsyncConnection, caller: Caller, agent_id: str, version: int
) -> None:
    """Remember the version that the deployer gave the agent's secrets. Raises NotFound."""
    agent = await _owned(connection, caller, agent_id)
    await store.save(connection, agent, model.with_secrets(agent, version))


async def change_agent(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    agent_id: str,
    decide: Callable[[Agent], list[Event]],
) -> Agent:
    """Apply `decide` to one of the caller's agents. Raises NotFound, and what `decide` raises."""
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id)
    return (await _append(connection, caller, entitlements, agent, decide(agent))).state


async def delete_agent(
    connection: AsyncConnection, caller: Caller, commands: Commands, agent_id: str
) -> Agent:
    """Delete an agent, leaving a tombstone; the deployer removes its resources. Raises NotFound."""
    agent = await _owned(connection, caller, agent_id)
    appended = await AGENTS.append(connection, agent, decisions.delete(agent), caller.metadata)
    await send_commands(connection, commands, appended)
    return appended.state


async def request_deployment(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    commands: Commands,
    agent_id: str,
    command: RequestDeployment,
) -> Deployment:
    """Start a deployment.

    Raises NotFound, Unauthorized where the account is disabled, Conflict, and what the tier's
    checks raise.
    """
    tier, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id)
    await require_enabled(connection, caller.user_id)
    events = decisions.request_deployment(agent, command, entitlements)
    appended = await _append(connection, caller, entitlements, agent, events)
    await send_commands(connection, commands, appended, tier=tier)
    return appended.state.deployments[command.deployment_id]


async def check_deployment(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    agent_id: str,
    command: RequestDeployment,
) -> None:
    """Raise what `request_deployment` would raise now. Changes and locks nothing."""
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id, lock=False)
    await require_enabled(connection, caller.user_id)
    events = decisions.request_deployment(agent, command, entitlements)
    await require_room(connection, caller, entitlements, events)


async def activate(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    agent_id: str,
    deployment_id: str,
    reason: str | None,
) -> tuple[Agent, Deployment]:
    """Set the pointer.

    Raises NotFound, Unauthorized where the account is disabled, or Conflict in the wrong state.
    """
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    agent = await _owned(connection, caller, agent_id, deployment_id)
    deployment = agent.deployments.get(deployment_id)
    if deployment is None:
        raise deployment_not_found()
    await require_enabled(connection, caller.user_id)
    events = decisions.activate(agent, deployment, reason)
    agent = (await _append(connection, caller, entitlements, agent, events)).state
    return agent, agent.deployments[deployment_id]


async def send_commands(
    connection: AsyncConnection,
    commands: Commands,
    appended: Appended[Agent],
    *,
    tier: str = DEFAULT_TIER,
) -> None:
    """Send the commands that follow from facts, in the transaction of the facts."""
    for event, cause in appended.facts:
        command = commands.caused_by(cause, event, tier=tier)
        if command is not None:
            await send(connection, subject_of(command), command)


async def tier_of(
    connection: AsyncConnection, tiers: Tiers, user_id: str
) -> tuple[str, Entitlements]:
    """Return the user's tier and what it allows."""
    tier = await connection.scalar(sa.select(accounts.c.tier).where(accounts.c.user_id == user_id))
    name = known_tier(tiers, tier)
    return name, tiers[name]


async def require_enabled(connection: AsyncConnection, user_id: str) -> None:
    """Raise Unauthorized where the account is disabled.

    It can then make no agent and no API key, upload, deploy and activate nothing, set no secret and
    watch no events; it can read, describe, disable, enable and delete what is there. A deploy that
    runs goes on: what it deploys cannot be invoked.
    """
    query = sa.select(accounts.c.disabled).where(accounts.c.user_id == user_id)
    if await connection.scalar(query):
        raise AccountDisabled


async def _append(
    connection: AsyncConnection,
    caller: Caller,
    entitlements: Entitlements,
    agent: Agent,
    events: Sequence[Event],
) -> Appended[Agent]:
    """Append what a user decided, within the tier's bounds; exact, since the user's row is locked
    (after the agent's, where that is there).
    """
    if events:
        await lock_user(connection, caller)
        await require_room(connection, caller, entitlements, events)
    return await AGENTS.append(connection, agent, events, caller.metadata)


async def require_room(
    connection: AsyncConnection,
    caller: Caller,
    entitlements: Entitlements,
    events: Sequence[Event],
) -> None:
    """Raise LimitExceeded or RateLimited where these facts are beyond the tier's bounds."""
    now_ms = caller.metadata.at_ms
    spent = await spent_by(connection, caller.user_id, entitlements, now_ms)
    bounds.require_room(events, spent, entitlements, now_ms)


async def lock_user(connection: AsyncConnection, caller: Caller) -> None:
    """Let one decision of the user's be made at a time. Raises Unavailable without the row."""
    query = sa.select(users.c.user_id).where(users.c.user_id == caller.user_id).with_for_update()
    if await connection.scalar(query) is None:
        raise user_missing()


async def _owned(
    connection: AsyncConnection,
    caller: Caller,
    agent_id: str,
    deployment_id: str | None = None,
    *,
    lock: bool = True,
) -> Agent:
    agent = await store.load(connection, agent_id, deployment_id, owner=caller.user_id, lock=lock)
    if agent is None or agent.deleted_at_ms is not None:
        raise agent_not_found()
    return agent
