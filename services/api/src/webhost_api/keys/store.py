"""API keys as rows: loaded for a decision or a check, saved after a decision, listed."""

from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.eventsourcing.aggregates import Aggregate

from webhost_api.keys import model
from webhost_api.keys.model import ApiKey
from webhost_api.queries import Page
from webhost_api.tables import api_keys


async def load(
    connection: AsyncConnection, key_id: str, *, owner: str | None = None, lock: bool = False
) -> ApiKey | None:
    """Return a key, revoked or not; None where there is none.

    With an `owner`, another user's key is neither found nor locked.
    """
    query = sa.select(api_keys.c.state).where(api_keys.c.key_id == key_id)
    if owner is not None:
        query = query.where(api_keys.c.user_id == owner)
    state = await connection.scalar(query.with_for_update() if lock else query)
    return None if state is None else _key_of(state)


async def load_all(connection: AsyncConnection, key_ids: Collection[str]) -> dict[str, ApiKey]:
    """Return those of these keys that there are, revoked or not."""
    query = sa.select(api_keys.c.key_id, api_keys.c.state).where(api_keys.c.key_id.in_(key_ids))
    return {row.key_id: _key_of(row.state) for row in await connection.execute(query)}


async def save(connection: AsyncConnection, _before: ApiKey, after: ApiKey) -> None:
    """Write the key."""
    row = {
        "key_id": after.id,
        "user_id": after.user_id,
        "expires_at_ms": after.expires_at_ms,
        "revoked_at_ms": after.revoked_at_ms,
        "state": msgspec.to_builtins(after),
    }
    statement = insert(api_keys).values(row)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["key_id"], set_=row),
    )


async def count_live(connection: AsyncConnection, user_id: str, at_ms: int) -> int:
    """Return how many keys of a user are neither revoked nor expired."""
    query = (
        sa.select(sa.func.count())
        .select_from(api_keys)
        .where(
            *_of(user_id),
            sa.or_(api_keys.c.expires_at_ms.is_(None), api_keys.c.expires_at_ms > at_ms),
        )
    )
    return await connection.scalar(query) or 0


async def list_keys(
    connection: AsyncConnection, user_id: str, page: Page
) -> tuple[list[ApiKey], str | None]:
    """Return a page of a user's keys that are not revoked."""
    query = sa.select(api_keys.c.state).where(*_of(user_id))
    states = await connection.scalars(page.of(query, api_keys.c.key_id))
    found = [_key_of(state) for state in states]
    return found[: page.limit], page.next_cursor(found)


def _of(user_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return api_keys.c.user_id == user_id, api_keys.c.revoked_at_ms.is_(None)


def _key_of(state: Any) -> ApiKey:
    return msgspec.convert(state, ApiKey)


KEYS = Aggregate(model.evolve, save)
"""How decisions about keys become facts."""
