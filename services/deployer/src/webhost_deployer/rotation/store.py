"""Rows about keys: which fronts have yet to be given which, and what this installation's keys are.

Each function runs in its caller's transaction. One process at a time says what the fronts are to
have: the one that was started last, so that two that are started one after the other with different
keys do not undo each other's work.
"""

from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.platform_keys import Ids
from webhost_kit.clock import now_ms

from webhost_deployer.model import Deployment, Phase, Step
from webhost_deployer.tables import (
    HAS_SCRIPT,
    STAYS,
    deployments,
    front_updates,
    installation_keys,
)

_STATE = deployments.c.state


@dataclass(frozen=True)
class Due:
    """A deployment whose front is to be updated, how often that failed, and which operator revokes
    its telemetry key with it, if one does.
    """

    deployment: Deployment
    tries: int
    revoked_by: str | None


async def claim(connection: AsyncConnection, keys: Ids) -> None:
    """Say that these are the installation's keys now; its own scripts may lack them."""
    row = {"key_ids": list(keys), "is_refreshed": False}
    statement = insert(installation_keys).values(id=1, **row)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_=row,
            where=installation_keys.c.key_ids != statement.excluded["key_ids"],
        )
    )


async def claimed(connection: AsyncConnection, keys: Ids) -> bool | None:
    """Say whether the installation's own scripts have these keys; None where others are claimed."""
    query = sa.select(installation_keys.c.is_refreshed).where(
        installation_keys.c.key_ids == sa.cast(list(keys), JSONB)
    )
    return await connection.scalar(query)


async def set_refreshed(connection: AsyncConnection, keys: Ids, *, refreshed: bool) -> None:
    """Record whether the own scripts have these keys, if they are still claimed."""
    await connection.execute(
        sa.update(installation_keys)
        .where(installation_keys.c.key_ids == sa.cast(list(keys), JSONB))
        .values(is_refreshed=refreshed)
    )


def _lags(front_keys: Ids) -> sa.ColumnElement[bool]:
    """Say which deployments have a front of their own with other keys, and are to stay."""
    return sa.and_(
        deployments.c.phase.in_((Phase.DEPLOYING, Phase.LIVE)),
        STAYS,
        HAS_SCRIPT,
        _STATE["done"].contains(sa.cast([Step.UPLOAD], JSONB)),
        ~_STATE["started"].has_key("namespace"),
        _STATE["frontKeys"].is_distinct_from(sa.cast(list(front_keys), JSONB)),
    )


async def count_lagging(connection: AsyncConnection, front_keys: Ids) -> int:
    """Return how many fronts do not have exactly these keys."""
    query = sa.select(sa.func.count()).select_from(deployments).where(_lags(front_keys))
    return (await connection.execute(query)).scalar_one()


async def mark_lagging(connection: AsyncConnection, front_keys: Ids) -> int:
    """Let the fronts that answer and do not have these keys be updated; return how many are new."""
    lagging = sa.select(
        deployments.c.deployment_id,
        deployments.c.agent_id,
        deployments.c.user_id,
        sa.literal(0),
        sa.literal(now_ms(), sa.BigInteger),
    ).where(deployments.c.phase == Phase.LIVE, _lags(front_keys))
    names = ("deployment_id", "agent_id", "user_id", "tries", "due_at_ms")
    statement = insert(front_updates).from_select(names, lagging)
    # An INSERT from a SELECT has no rowcount.
    marked = statement.on_conflict_do_nothing().returning(front_updates.c.deployment_id)
    return len((await connection.execute(marked)).all())


async def request_revocation(
    connection: AsyncConnection, deployment: Deployment, operator: str
) -> None:
    """Let the deployment's telemetry key be revoked now; one that was asked for before stands."""
    statement = insert(front_updates).values(
        deployment_id=deployment.id,
        agent_id=deployment.agent_id,
        user_id=deployment.user_id,
        tries=0,
        due_at_ms=now_ms(),
        revoked_by=operator,
    )
    changed = {name: statement.excluded[name] for name in ("due_at_ms", "revoked_by")}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["deployment_id"],
            set_=changed,
            where=front_updates.c.revoked_by.is_(None),
        )
    )


async def is_due(connection: AsyncConnection, deployment_id: str) -> bool:
    """Say whether the deployment's front is still to be updated."""
    query = sa.select(front_updates.c.tries).where(front_updates.c.deployment_id == deployment_id)
    return await connection.scalar(query) is not None


async def due_update(connection: AsyncConnection, agent_id: str, now: int) -> Due | None:
    """Return the agent's next front to be updated: revocations first."""
    query = (
        sa.select(_STATE, front_updates.c.tries, front_updates.c.revoked_by)
        .join(front_updates, front_updates.c.deployment_id == deployments.c.deployment_id)
        .where(front_updates.c.agent_id == agent_id, front_updates.c.due_at_ms <= now)
        .order_by(front_updates.c.revoked_by.is_(None), front_updates.c.deployment_id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return Due(msgspec.convert(row.state, Deployment), row.tries, row.revoked_by)


async def postpone(
    connection: AsyncConnection, deployment_id: str, tries: int, due_at_ms: int
) -> None:
    """Record when the front is tried again, after this many failures; nothing is revoked then."""
    await connection.execute(
        sa.update(front_updates)
        .where(front_updates.c.deployment_id == deployment_id)
        .values(tries=tries, due_at_ms=due_at_ms, revoked_by=None)
    )


async def settle(connection: AsyncConnection, deployment_id: str) -> None:
    """Take the front from the work."""
    await connection.execute(
        sa.delete(front_updates).where(front_updates.c.deployment_id == deployment_id)
    )
