"""What a user has used of the tier's bounds, read from the api's own tables.

Each window is one look at an index: for the time of the limit's last place, as of now.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.entitlements import Entitlements

from webhost_api.bounds import CHANGES_A_DAY, DEPLOYS_A_DAY, DEPLOYS_AN_HOUR, Spent, Window
from webhost_api.tables import agents, deployments, metadata

_TIMES: dict[Window, sa.Column[Any]] = {
    CHANGES_A_DAY: metadata.tables["events"].c.occurred_at_ms,
    DEPLOYS_AN_HOUR: deployments.c.created_at_ms,
    DEPLOYS_A_DAY: deployments.c.created_at_ms,
}


async def spent_by(
    connection: AsyncConnection, user_id: str, allowed: Entitlements, now_ms: int
) -> Spent:
    """Return what the user has used."""
    full: dict[Window, int] = {}
    for window, time in _TIMES.items():
        until_ms = await full_until(connection, window, allowed, time, user_id, now_ms)
        if until_ms is not None:
            full[window] = until_ms
    created = 0
    if allowed.agents_created is not None:
        query = sa.select(sa.func.count()).select_from(agents).where(agents.c.user_id == user_id)
        created = await connection.scalar(query) or 0
    return Spent(agents_created=created, full_until_ms=full)


async def full_until(
    connection: AsyncConnection,
    window: Window,
    allowed: Entitlements,
    time: sa.Column[Any],
    user_id: str,
    now_ms: int,
) -> int | None:
    """Return when the window has room again, None where it has. `time` is of a table by user."""
    limit = window.limit_of(allowed)
    if limit is None:
        return None
    if limit == 0:
        return now_ms + window.window_ms
    query = (
        sa.select(time)
        .where(time.table.c.user_id == user_id, time > now_ms - window.window_ms)
        .order_by(time.desc())
        .offset(limit - 1)
        .limit(1)
    )
    oldest = await connection.scalar(query)
    return None if oldest is None else oldest + window.window_ms
