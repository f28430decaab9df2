"""Secrets as rows: the sealed values, and which deployments have yet to be given which.

Each function runs in its caller's transaction; whoever changes something holds `lock_agent`.
A row of `secrets` is a value, a deletion that some Worker may not know of, or a value that was lost
with the database that had it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.secret import SecretEvent
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.aggregates import Aggregate
from webhost_kit.eventsourcing.store import EventMetadata, events_table

from webhost_deployer.model import FINAL, Deployment, Phase
from webhost_deployer.secrets.model import AgentSecrets, evolve
from webhost_deployer.tables import (
    HAS_SCRIPT,
    STAYS,
    agent_secrets,
    deployments,
    secret_operations,
    secret_updates,
    secrets,
)

OPERATIONS_KEPT_MS = 2 * 24 * 3600 * 1000
"""For longer than the api remembers the request that an operation is of."""

_APPLIED = sa.func.coalesce(deployments.c.state["secretsVersion"].astext.cast(sa.Integer), 0)


@dataclass(frozen=True)
class Due:
    """A deployment whose Worker lags, and how often it could not be brought up."""

    deployment: Deployment
    tries: int


async def load(connection: AsyncConnection, agent_id: str) -> AgentSecrets | None:
    """Return the agent's secrets, None where none was ever set."""
    query = sa.select(agent_secrets).where(agent_secrets.c.agent_id == agent_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return AgentSecrets(agent_id=row.agent_id, user_id=row.user_id, version=row.version)


async def save(connection: AsyncConnection, state: AgentSecrets) -> None:
    """Write the state row."""
    statement = insert(agent_secrets).values(**msgspec.structs.asdict(state))
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["agent_id"], set_={"version": statement.excluded.version}
        )
    )


async def append(
    connection: AsyncConnection, state: AgentSecrets, event: SecretEvent, metadata: EventMetadata
) -> AgentSecrets:
    """Append a fact about the secrets after `state`, and write its row. Raises VersionConflict."""
    return (await _SECRETS.append(connection, state, [event], metadata)).state


async def put(
    connection: AsyncConnection,
    agent_id: str,
    sealed: Mapping[str, str | None],
    version: int,
    at_ms: int,
    *,
    lost: bool = False,
) -> None:
    """Write rows, by name; without a sealed value one is a deletion, or was `lost`."""
    for key, value in sealed.items():
        row = {
            "sealed": value,
            "is_lost": lost,
            "version": version,
            "updated_at_ms": at_ms,
        }
        statement = insert(secrets).values(agent_id=agent_id, key=key, **row)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["agent_id", "key"], set_=row)
        )


async def set_at_ms(connection: AsyncConnection, agent_id: str) -> dict[str, int]:
    """Return when each secret was set that has a value here."""
    query = sa.select(secrets.c.key, secrets.c.updated_at_ms).where(
        secrets.c.agent_id == agent_id, secrets.c.sealed.is_not(None)
    )
    return {row.key: row.updated_at_ms for row in await connection.execute(query)}


async def to_delete(
    connection: AsyncConnection, agent_id: str, keys: Sequence[str]
) -> tuple[str, ...]:
    """Return those of these secrets that some Worker may have."""
    query = sa.select(secrets.c.key).where(
        secrets.c.agent_id == agent_id,
        secrets.c.key.in_(keys),
        sa.or_(secrets.c.sealed.is_not(None), secrets.c.is_lost),
    )
    return tuple(sorted((await connection.scalars(query)).all()))


async def changes_since(
    connection: AsyncConnection, agent_id: str, version: int
) -> dict[str, str | None]:
    """Return what changed after this version: sealed values by name, None for what was deleted."""
    query = sa.select(secrets.c.key, secrets.c.sealed).where(
        secrets.c.agent_id == agent_id, secrets.c.version > version, ~secrets.c.is_lost
    )
    return {row.key: row.sealed for row in await connection.execute(query)}


async def done_version(connection: AsyncConnection, agent_id: str, operation: str) -> int | None:
    """Return the version that this operation made, None where it was not done."""
    query = sa.select(secret_operations.c.version).where(
        secret_operations.c.agent_id == agent_id, secret_operations.c.operation == operation
    )
    return await connection.scalar(query)


async def record_done(
    connection: AsyncConnection, agent_id: str, operation: str, version: int, at_ms: int
) -> None:
    """Remember that this operation is done, and made this version."""
    row = {"agent_id": agent_id, "operation": operation, "version": version, "done_at_ms": at_ms}
    await connection.execute(sa.insert(secret_operations).values(row))


async def forget_done(database: Database) -> None:
    """Forget the operations that no request can name again. Raises Unavailable."""
    before_ms = now_ms() - OPERATIONS_KEPT_MS
    async with database.transaction() as connection:
        await connection.execute(
            sa.delete(secret_operations).where(secret_operations.c.done_at_ms < before_ms)
        )


async def full_until(
    connection: AsyncConnection, state: AgentSecrets, most: int | None, window_ms: int
) -> int | None:
    """Return when one more change is allowed, None where it is now."""
    if most is None or state.version < most:
        return None
    query = sa.select(events_table.c.occurred_at_ms).where(
        events_table.c.aggregate_id == state.id,
        events_table.c.version == state.version - most + 1,
    )
    oldest = await connection.scalar(query) if most else now_ms()
    return oldest + window_ms if oldest is not None and oldest > now_ms() - window_ms else None


async def mark_lagging(
    connection: AsyncConnection, agent_id: str, active_deployment_id: str | None = None
) -> None:
    """Let every kept deployment be brought up that has older secrets, the active one first.

    Without a name, the active one is the one that was named before.
    """
    lagging = (
        sa.select(
            deployments.c.deployment_id,
            deployments.c.agent_id,
            deployments.c.user_id,
            deployments.c.deployment_id == (active_deployment_id or ""),
            sa.literal(0),
            sa.literal(now_ms(), sa.BigInteger),
        )
        .join(agent_secrets, agent_secrets.c.agent_id == deployments.c.agent_id)
        .where(
            deployments.c.agent_id == agent_id,
            deployments.c.phase == Phase.LIVE,
            STAYS,
            HAS_SCRIPT,
            agent_secrets.c.version > _APPLIED,
        )
    )
    names = ("deployment_id", "agent_id", "user_id", "is_active", "tries", "due_at_ms")
    statement = insert(secret_updates).from_select(names, lagging)
    changed = {name: statement.excluded[name] for name in ("tries", "due_at_ms")}
    if active_deployment_id is not None:
        changed["is_active"] = statement.excluded.is_active
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["deployment_id"], set_=changed)
    )


async def due_update(connection: AsyncConnection, agent_id: str, now: int) -> Due | None:
    """Return the agent's next deployment to be brought up: the active one, then the newest."""
    query = (
        sa.select(deployments.c.state, secret_updates.c.tries)
        .join(secret_updates, secret_updates.c.deployment_id == deployments.c.deployment_id)
        .where(secret_updates.c.agent_id == agent_id, secret_updates.c.due_at_ms <= now)
        .order_by(secret_updates.c.is_active.desc(), secret_updates.c.deployment_id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Due(msgspec.convert(row.state, Deployment), row.tries)


async def postpone(
    connection: AsyncConnection, deployment_id: str, tries: int, due_at_ms: int
) -> None:
    """Record when the deployment is tried again, after this many failures."""
    await connection.execute(
        sa.update(secret_updates)
        .where(secret_updates.c.deployment_id == deployment_id)
        .values(tries=tries, due_at_ms=due_at_ms)
    )


async def settle(connection: AsyncConnection, deployment: Deployment) -> None:
    """Take the deployment from the work where it has the newest secrets, or needs none."""
    newest = await load(connection, deployment.agent_id)
    is_behind = newest is not None and deployment.secrets_version < newest.version
    if deployment.is_kept and is_behind:
        return
    await connection.execute(
        sa.delete(secret_updates).where(secret_updates.c.deployment_id == deployment.id)
    )
    await prune(connection, deployment.agent_id)


async def prune(connection: AsyncConnection, agent_id: str) -> None:
    """Remove the deletions that every Worker of the agent knows of."""
    known = (
        sa.select(sa.func.coalesce(sa.func.min(_APPLIED), 2**31 - 1))
        .where(deployments.c.agent_id == agent_id, deployments.c.phase.not_in(FINAL), HAS_SCRIPT)
        .scalar_subquery()
    )
    await connection.execute(
        sa.delete(secrets).where(
            secrets.c.agent_id == agent_id,
            secrets.c.sealed.is_(None),
            ~secrets.c.is_lost,
            secrets.c.version <= known,
        )
    )


async def forget(connection: AsyncConnection, agent_id: str) -> None:
    """Remove all values of a deleted agent; the version stays."""
    for table in (secrets, secret_operations, secret_updates):
        await connection.execute(sa.delete(table).where(table.c.agent_id == agent_id))


async def _save(connection: AsyncConnection, _: AgentSecrets, after: AgentSecrets) -> None:
    await save(connection, after)


_SECRETS = Aggregate(evolve, _save)
