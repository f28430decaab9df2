"""Agents and deployments as rows: loaded for a decision, saved after it."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.database.engine import is_unique_violation
from webhost_kit.errors import Conflict
from webhost_kit.eventsourcing.aggregates import Aggregate

from webhost_api import model
from webhost_api.model import Agent, Deployment, DeploymentStatus
from webhost_api.tables import agents, deployments


async def load(
    connection: AsyncConnection,
    agent_id: str,
    deployment_id: str | None = None,
    *,
    owner: str | None = None,
    lock: bool = True,
) -> Agent | None:
    """Return the agent with the deployments that decisions need, by default its row locked.

    These are the kept ones, the running one, and the one named here. With an `owner`, another
    user's agent is neither found nor locked.
    """
    query = sa.select(agents.c.state).where(agents.c.agent_id == agent_id)
    if owner is not None:
        query = query.where(agents.c.user_id == owner)
    state = await connection.scalar(query.with_for_update() if lock else query)
    if state is None:
        return None
    needed = sa.or_(
        deployments.c.is_kept,
        deployments.c.status == DeploymentStatus.DEPLOYING,
        deployments.c.deployment_id == deployment_id,
    )
    found = await connection.scalars(
        sa.select(deployments.c.state).where(deployments.c.agent_id == agent_id, needed)
    )
    return agent_of(state, map(deployment_of, found))


async def save(connection: AsyncConnection, before: Agent, after: Agent) -> None:
    """Write what changed. Raises Conflict when another of the user's agents has the name."""
    row = {
        "agent_id": after.id,
        "user_id": after.user_id,
        "name": after.name,
        "status": after.status,
        "deleted_at_ms": after.deleted_at_ms,
        "unstarted_version": after.unstarted_version,
        "state": msgspec.to_builtins(msgspec.structs.replace(after, deployments={})),
    }
    statement = (
        insert(agents).values(row).on_conflict_do_update(index_elements=["agent_id"], set_=row)
    )
    try:
        await connection.execute(statement)
    except IntegrityError as error:
        if is_unique_violation(error):
            raise _name_taken() from error
        raise
    for deployment in after.deployments.values():
        if before.deployments.get(deployment.id) is not deployment:
            await save_deployment(connection, deployment)


async def require_free_name(connection: AsyncConnection, agent: Agent, name: str) -> None:
    """Raise Conflict when another of the user's agents has the name."""
    query = sa.select(agents.c.agent_id).where(
        agents.c.user_id == agent.user_id,
        agents.c.name == name,
        agents.c.agent_id != agent.id,
        agents.c.deleted_at_ms.is_(None),
    )
    if await connection.scalar(query) is not None:
        raise _name_taken()


async def save_deployment(connection: AsyncConnection, deployment: Deployment) -> None:
    """Write one deployment."""
    row = {
        "deployment_id": deployment.id,
        "user_id": deployment.user_id,
        "agent_id": deployment.agent_id,
        "version": deployment.version,
        "status": deployment.status,
        "is_kept": deployment.is_kept,
        "created_at_ms": deployment.created_at_ms,
        "checksum": deployment.artifact.checksum,
        "unstarted_version": deployment.unstarted_version,
        "state": msgspec.to_builtins(deployment),
    }
    await connection.execute(
        insert(deployments)
        .values(row)
        .on_conflict_do_update(index_elements=["deployment_id"], set_=row)
    )


def agent_of(state: Any, known: Iterable[Deployment] = ()) -> Agent:
    """Return the agent that a document holds, with these of its deployments."""
    agent = msgspec.convert(state, Agent)
    return msgspec.structs.replace(agent, deployments={it.id: it for it in known})


def deployment_of(state: Any) -> Deployment:
    """Return the deployment that a document holds."""
    return msgspec.convert(state, Deployment)


def _name_taken() -> Conflict:
    return Conflict("Another of your agents has this name.")


AGENTS = Aggregate(model.evolve, save)
"""How decisions about agents become facts."""
