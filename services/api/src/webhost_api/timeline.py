"""Reads of the history, newest first; each takes the user whose rows it may see."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_kit.errors import InvalidRequest

from webhost_api.event_stream import Place
from webhost_api.queries import MAX_LIMIT
from webhost_api.tables import agent_events, history

_KEY = (history.c.at_ms, history.c.version, history.c.event_id)


@dataclass(frozen=True)
class Window:
    """Which part of a list: at most `limit` rows before the one at `before`, newest first."""

    limit: int
    before: tuple[int, int, str] | None

    @classmethod
    def requested(cls, limit: int, cursor: str | None) -> "Window":
        """Return what a caller requested. Raises InvalidRequest for a made-up cursor."""
        return cls(max(1, min(limit, MAX_LIMIT)), None if cursor is None else _decoded(cursor))

    async def read(
        self, connection: AsyncConnection, *conditions: sa.ColumnElement[bool]
    ) -> tuple[Sequence[sa.Row[Any]], str | None]:
        """Return the rows, and the cursor of those behind them, None after the last."""
        query = sa.select(history).where(*conditions)
        if self.before is not None:
            query = query.where(sa.tuple_(*_KEY) < sa.tuple_(*map(sa.literal, self.before)))
        query = query.order_by(*(column.desc() for column in _KEY)).limit(self.limit + 1)
        rows = (await connection.execute(query)).all()
        if len(rows) <= self.limit:
            return rows, None
        rows = rows[: self.limit]
        return rows, _encoded(rows[-1])


async def audit(
    connection: AsyncConnection,
    user_id: str,
    window: Window,
    *,
    since_ms: int,
    agent_id: str | None,
    action: str | None,
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """Return a part of what happened to a user's things since `since_ms`."""
    of_agent = [] if agent_id is None else [history.c.agent_id == agent_id]
    of_action = history.c.action.is_not(None) if action is None else history.c.action == action
    return await window.read(
        connection,
        history.c.user_id == user_id,
        history.c.at_ms >= since_ms,
        of_action,
        *of_agent,
    )


async def deployment_log(
    connection: AsyncConnection, deployment_id: str, window: Window, *, since_ms: int
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """Return a part of a deployment's log; its ownership must have been checked."""
    return await window.read(
        connection, history.c.deployment_id == deployment_id, history.c.at_ms >= since_ms
    )


async def newest(connection: AsyncConnection, agent_id: str) -> Place:
    """Return the place behind an agent's newest event, 0 where there is none."""
    is_last = sa.and_(
        history.c.agent_id == agent_events.c.agent_id,
        history.c.number == agent_events.c.last_number,
    )
    query = (
        sa.select(agent_events.c.last_number, history.c.event_id)
        .select_from(agent_events.outerjoin(history, is_last))
        .where(agent_events.c.agent_id == agent_id)
    )
    row = (await connection.execute(query)).first()
    return Place(0) if row is None else Place.behind(row.last_number, row.event_id)


def _encoded(row: sa.Row[Any]) -> str:
    place = f"{row.at_ms}.{row.version}.{row.event_id}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[int, int, str]:
    try:
        place = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        at_ms, version, event_id = place.split(".")
        found = int(at_ms), int(version), event_id
    except ValueError as error:
        raise _no_cursor() from error
    if not (0 <= found[0] < 2**53 and 0 < found[1] < 2**31 and ids.has_prefix(event_id, ids.EVENT)):
        raise _no_cursor()
    return found


def _no_cursor() -> InvalidRequest:
    return InvalidRequest.at(["cursor"], "This is not a cursor of this list.")
