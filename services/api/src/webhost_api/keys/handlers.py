"""What users request about their keys: load, decide, append, evolve, save; one transaction each.

Emits: facts about keys on EVENTS. Guarantees: a fact and its row are written together or not at
all; a foreign, a revoked and a missing key look the same.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import Event
from webhost_kit.errors import NotFound

from webhost_api.handlers import (
    Caller,
    Tiers,
    agent_not_found,
    lock_user,
    require_enabled,
    require_room,
    tier_of,
)
from webhost_api.keys import decisions, store
from webhost_api.keys.decisions import CreateKey
from webhost_api.keys.model import ApiKey
from webhost_api.keys.store import KEYS
from webhost_api.tables import agents


def key_not_found() -> NotFound:
    """Return the one answer for a key that is missing, revoked or someone else's."""
    return NotFound("There is no such API key.")


async def create_key(
    connection: AsyncConnection, caller: Caller, tiers: Tiers, key_id: str, command: CreateKey
) -> ApiKey:
    """Make a key.

    Raises Unauthorized where the account is disabled, NotFound where an agent is not the user's,
    InvalidRequest, LimitExceeded or RateLimited.
    """
    await lock_user(connection, caller)
    await require_enabled(connection, caller.user_id)
    await _require_own_agents(connection, caller, command.agent_ids or ())
    at_ms = caller.metadata.at_ms
    live = await store.count_live(connection, caller.user_id, at_ms)
    new = ApiKey(id=key_id, user_id=caller.user_id)
    return await _append(connection, caller, tiers, new, decisions.create(command, live, at_ms))


async def rotate_key(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    key_id: str,
    *,
    secret_hash: str,
    overlap_ms: int,
) -> ApiKey:
    """Give a key a new secret. Raises NotFound, Conflict or RateLimited."""
    key = await _owned(connection, caller, key_id)
    await lock_user(connection, caller)
    events = decisions.rotate(key, secret_hash, overlap_ms, caller.metadata.at_ms)
    return await _append(connection, caller, tiers, key, events)


async def revoke_key(connection: AsyncConnection, caller: Caller, key_id: str) -> None:
    """End a key. Raises NotFound."""
    key = await _owned(connection, caller, key_id)
    await KEYS.append(connection, key, decisions.revoke(key), caller.metadata)


async def _append(
    connection: AsyncConnection,
    caller: Caller,
    tiers: Tiers,
    key: ApiKey,
    events: Sequence[Event],
) -> ApiKey:
    _, entitlements = await tier_of(connection, tiers, caller.user_id)
    await require_room(connection, caller, entitlements, events)
    return (await KEYS.append(connection, key, events, caller.metadata)).state


async def _owned(connection: AsyncConnection, caller: Caller, key_id: str) -> ApiKey:
    key = await store.load(connection, key_id, owner=caller.user_id, lock=True)
    if key is None or key.revoked_at_ms is not None:
        raise key_not_found()
    return key


async def _require_own_agents(
    connection: AsyncConnection, caller: Caller, agent_ids: Sequence[str]
) -> None:
    if not agent_ids:
        return
    query = (
        sa.select(sa.func.count())
        .select_from(agents)
        .where(
            agents.c.agent_id.in_(agent_ids),
            agents.c.user_id == caller.user_id,
            agents.c.deleted_at_ms.is_(None),
        )
    )
    if await connection.scalar(query) != len(set(agent_ids)):
        raise agent_not_found()
