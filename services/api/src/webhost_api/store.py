"""Agents and deployments as rows: loaded for a decision, saved after it."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.artifacts import Artifact
from webhost_contracts.errors import DeploymentError
from webhost_kit.database.engine import is_unique_violation
from webhost_kit.errors import Conflict

from webhost_api.model import GOOD, Agent, Deployment, DeploymentStatus
from webhost_api.tables import agents, deployments


async def load_for_decision(
    connection: AsyncConnection, agent_id: str, deployment_id: str | None = None
) -> Agent | None:
    """Return the agent with what decisions need of its deployments, its row locked.

    That is the kept ones, the one under way, and the one named here.
    """
    query = sa.select(agents).where(agents.c.agent_id == agent_id).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    needed = sa.or_(
        deployments.c.status == DeploymentStatus.DEPLOYING,
        sa.and_(deployments.c.status.in_(GOOD), sa.not_(deployments.c.retired)),
        deployments.c.deployment_id == deployment_id,
    )
    found = await connection.execute(
        sa.select(deployments).where(deployments.c.agent_id == agent_id, needed)
    )
    return agent_of(row, map(deployment_of, found.mappings()))


async def save(connection: AsyncConnection, before: Agent | None, after: Agent) -> None:
    """Write what changed. Raises Conflict when another of the user's agents has the name."""
    row = _agent_row(after)
    statement = (
        insert(agents).values(row).on_conflict_do_update(index_elements=["agent_id"], set_=row)
    )
    try:
        await connection.execute(statement)
    except IntegrityError as error:
        if is_unique_violation(error):
            raise Conflict("Another of your agents has this name.") from error
        raise
    for deployment in after.deployments.values():
        if before is None or before.deployments.get(deployment.id) is not deployment:
            await save_deployment(connection, deployment)


async def save_deployment(connection: AsyncConnection, deployment: Deployment) -> None:
    """Write one deployment."""
    row = _deployment_row(deployment)
    await connection.execute(
        insert(deployments)
        .values(row)
        .on_conflict_do_update(index_elements=["deployment_id"], set_=row)
    )


def agent_of(row: RowMapping, known: Iterable[Deployment] = ()) -> Agent:
    """Return the agent that a row holds, with these of its deployments."""
    return Agent(
        id=row["agent_id"],
        user_id=row["user_id"],
        version=row["version"],
        name=row["name"],
        description=row["description"],
        env_var_keys=tuple(row["env_var_keys"]),
        preferred_runtime_provider=row["preferred_runtime_provider"],
        created_at_ms=row["created_at_ms"],
        updated_at_ms=row["updated_at_ms"],
        active_deployment_id=row["active_deployment_id"],
        running_deployment_id=row["running_deployment_id"],
        pointer_revision=row["pointer_revision"],
        newest_deployment_version=row["newest_deployment_version"],
        last_deploy_failed=row["last_deploy_failed"],
        last_deployed_at_ms=row["last_deployed_at_ms"],
        disabled_at_ms=row["disabled_at_ms"],
        deleted_at_ms=row["deleted_at_ms"],
        deployments={deployment.id: deployment for deployment in known},
    )


def deployment_of(row: RowMapping) -> Deployment:
    """Return the deployment that a row holds."""
    error = row["error"]
    return Deployment(
        id=row["deployment_id"],
        user_id=row["user_id"],
        agent_id=row["agent_id"],
        version=row["version"],
        runtime_provider=row["runtime_provider"],
        artifact=Artifact(
            type=row["artifact_type"],
            checksum=row["artifact_checksum"],
            size_bytes=row["artifact_size_bytes"],
        ),
        main_module_name=row["main_module_name"],
        invoke_path=row["invoke_path"],
        compatibility_date=row["compatibility_date"],
        commit_hash=row["commit_hash"],
        set_as_active=row["set_as_active"],
        pointer_revision=row["pointer_revision"],
        created_at_ms=row["created_at_ms"],
        status=DeploymentStatus(row["status"]),
        retired=row["retired"],
        worker_name=row["worker_name"],
        invoke_url=row["invoke_url"],
        error=None if error is None else msgspec.convert(error, DeploymentError),
        deployed_at_ms=row["deployed_at_ms"],
        finished_at_ms=row["finished_at_ms"],
        fact_version=row["fact_version"],
    )


def _agent_row(agent: Agent) -> dict[str, Any]:
    return {
        "agent_id": agent.id,
        "user_id": agent.user_id,
        "version": agent.version,
        "name": agent.name,
        "description": agent.description,
        "env_var_keys": list(agent.env_var_keys),
        "preferred_runtime_provider": agent.preferred_runtime_provider,
        "status": agent.status,
        "active_deployment_id": agent.active_deployment_id,
        "running_deployment_id": agent.running_deployment_id,
        "pointer_revision": agent.pointer_revision,
        "newest_deployment_version": agent.newest_deployment_version,
        "last_deploy_failed": agent.last_deploy_failed,
        "created_at_ms": agent.created_at_ms,
        "updated_at_ms": agent.updated_at_ms,
        "last_deployed_at_ms": agent.last_deployed_at_ms,
        "disabled_at_ms": agent.disabled_at_ms,
        "deleted_at_ms": agent.deleted_at_ms,
    }


def _deployment_row(deployment: Deployment) -> dict[str, Any]:
    error = deployment.error
    return {
        "deployment_id": deployment.id,
        "user_id": deployment.user_id,
        "agent_id": deployment.agent_id,
        "version": deployment.version,
        "runtime_provider": deployment.runtime_provider,
        "artifact_type": deployment.artifact.type,
        "artifact_checksum": deployment.artifact.checksum,
        "artifact_size_bytes": deployment.artifact.size_bytes,
        "main_module_name": deployment.main_module_name,
        "invoke_path": deployment.invoke_path,
        "compatibility_date": deployment.compatibility_date,
        "commit_hash": deployment.commit_hash,
        "set_as_active": deployment.set_as_active,
        "pointer_revision": deployment.pointer_revision,
        "status": deployment.status,
        "retired": deployment.retired,
        "worker_name": deployment.worker_name,
        "invoke_url": deployment.invoke_url,
        "error": None if error is None else msgspec.to_builtins(error),
        "created_at_ms": deployment.created_at_ms,
        "deployed_at_ms": deployment.deployed_at_ms,
        "finished_at_ms": deployment.finished_at_ms,
        "fact_version": deployment.fact_version,
    }
