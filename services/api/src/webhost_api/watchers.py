"""Those who watch agents' events, and until when they may go on.

Consumes: the api's own rows of accounts and API keys. Guarantees: a key is as good as at any other
request: while the database may lack own facts, such as a revocation, nothing is returned.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import api_keys
from webhost_contracts.api_keys import Presented
from webhost_kit.eventsourcing.store import require_verified

from webhost_api.keys import store
from webhost_api.tables import accounts


@dataclass(frozen=True)
class Watcher:
    """A user, by JWT or by the API key that was presented."""

    user_id: str
    presented: Presented | None = None


async def good_until_ms(
    connection: AsyncConnection, watchers: Collection[Watcher]
) -> dict[Watcher, float]:
    """Return until when each may go on: 0 for no longer, infinity where the rows set no end.

    Raises Unavailable.
    """
    require_verified(connection)
    user_ids = {watcher.user_id for watcher in watchers}
    query = sa.select(accounts.c.user_id).where(
        accounts.c.user_id.in_(user_ids), accounts.c.disabled
    )
    disabled = set(await connection.scalars(query))
    presented = [one.presented for one in watchers if one.presented is not None]
    keys = await store.load_all(connection, {one.key_id for one in presented}) if presented else {}

    def until_ms(watcher: Watcher) -> float:
        if watcher.user_id in disabled:
            return 0
        if watcher.presented is None:
            return inf
        key = keys.get(watcher.presented.key_id)
        return 0 if key is None else api_keys.good_until_ms(key, watcher.presented)

    return {watcher: until_ms(watcher) for watcher in watchers}
