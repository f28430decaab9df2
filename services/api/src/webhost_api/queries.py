"""Reads. Each takes the user whose rows it may see; someone else's are not found."""

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.errors import InvalidRequest

from webhost_api.handlers import agent_not_found, deployment_not_found, user_missing
from webhost_api.model import Agent, AgentStatus, Deployment, DeploymentStatus
from webhost_api.store import agent_of, deployment_of
from webhost_api.tables import agents, deployments, users

DEFAULT_LIMIT = 25
MAX_LIMIT = 100

_ID = re.compile(r"^[a-z]{3}_[0-9a-z]{26}$")


class Identified(Protocol):
    """What a list holds."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True)
class Page:
    """Which part of a list: at most `limit` rows after the id `after`, newest first."""

    limit: int
    after: str | None

    @classmethod
    def requested(cls, limit: int, cursor: str | None) -> "Page":
        """Return the page that a caller requested. Raises InvalidRequest for a made-up cursor."""
        after = None if cursor is None else _decoded(cursor)
        return cls(max(1, min(limit, MAX_LIMIT)), after)

    def of(self, query: sa.Select[Any], key: sa.Column[str]) -> sa.Select[Any]:
        """Return the query for this page and one more row, which shows whether more follow."""
        if self.after is not None:
            query = query.where(key < self.after)
        return query.order_by(key.desc()).limit(self.limit + 1)

    def next_cursor(self, found: Sequence[Identified]) -> str | None:
        """Return the cursor of the next page, None after the last."""
        if len(found) <= self.limit:
            return None
        return base64.urlsafe_b64encode(found[self.limit - 1].id.encode()).decode().rstrip("=")


async def user(connection: AsyncConnection, user_id: str) -> sa.Row[Any]:
    """Return a registered user's row.

    Raises Unavailable where it is missing.
    """
    query = sa.select(users).where(users.c.user_id == user_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise user_missing()
    return row


async def agent(
    connection: AsyncConnection, user_id: str, agent_id: str, *, or_tombstone: bool = False
) -> Agent:
    """Return an agent without its deployments; a deleted one only with `or_tombstone`.

    Raises NotFound.
    """
    query = sa.select(agents.c.state).where(
        agents.c.agent_id == agent_id, agents.c.user_id == user_id
    )
    if not or_tombstone:
        query = query.where(agents.c.deleted_at_ms.is_(None))
    state = await connection.scalar(query)
    if state is None:
        raise agent_not_found()
    return agent_of(state)


async def agent_names(
    connection: AsyncConnection, user_id: str, agent_ids: Collection[str]
) -> dict[str, str]:
    """Return by id the names of these agents, where they are the user's; also of deleted ones."""
    query = sa.select(agents.c.agent_id, agents.c.name).where(
        agents.c.user_id == user_id, agents.c.agent_id.in_(agent_ids)
    )
    return {row.agent_id: row.name for row in await connection.execute(query)}


async def list_agents(
    connection: AsyncConnection,
    user_id: str,
    page: Page,
    *,
    status: AgentStatus | None,
    include_deleted: bool,
    only: Sequence[str] | None = None,
) -> tuple[list[Agent], str | None]:
    """Return a page of a user's agents, or of those that are in `only`.

    The filter `deleted` finds tombstones by itself.
    """
    query = sa.select(agents.c.state).where(agents.c.user_id == user_id)
    if only is not None:
        query = query.where(agents.c.agent_id.in_(only))
    if status is not None:
        query = query.where(agents.c.status == status)
    elif not include_deleted:
        query = query.where(agents.c.deleted_at_ms.is_(None))
    states = await connection.scalars(page.of(query, agents.c.agent_id))
    found = [agent_of(state) for state in states]
    return found[: page.limit], page.next_cursor(found)


async def deployment(connection: AsyncConnection, user_id: str, deployment_id: str) -> Deployment:
    """Return a deployment, also of a deleted agent. Raises NotFound."""
    query = sa.select(deployments.c.state).where(
        deployments.c.deployment_id == deployment_id, deployments.c.user_id == user_id
    )
    state = await connection.scalar(query)
    if state is None:
        raise deployment_not_found()
    return deployment_of(state)


async def list_deployments(
    connection: AsyncConnection, agent_id: str, page: Page, *, status: DeploymentStatus | None
) -> tuple[list[Deployment], str | None]:
    """Return a page of an agent's deployments; its ownership must have been checked."""
    query = sa.select(deployments.c.state).where(deployments.c.agent_id == agent_id)
    if status is not None:
        query = query.where(deployments.c.status == status)
    states = await connection.scalars(page.of(query, deployments.c.deployment_id))
    found = [deployment_of(state) for state in states]
    return found[: page.limit], page.next_cursor(found)


def _decoded(cursor: str) -> str:
    try:
        after = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        after = ""
    if not _ID.fullmatch(after):
        raise InvalidRequest.at(["cursor"], "This is not a cursor of this list.")
    return after
