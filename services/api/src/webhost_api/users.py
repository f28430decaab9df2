"""Registration: the first valid request of a new subject creates the user.

Emits: `user.registered.v1`. Guarantees: once per user, however many first requests are concurrent;
no more new users than the rate limits allow, which known users never meet.
What is remembered holds for one incarnation of the database: another may be older than the user.
"""

import sqlalchemy as sa
from cachetools import LRUCache
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import UserRegistered
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.database.row_security import answering
from webhost_kit.eventsourcing.store import EventMetadata, append
from webhost_kit.http.auth import Principal

from webhost_api.rate_limits import RateLimits
from webhost_api.tables import users

REMEMBERED_USERS = 100_000


class Users:
    """Registers new users, and caches which are registered."""

    def __init__(self, database: Database, requests: Transactions, rate_limits: RateLimits) -> None:
        self._database = database
        self._requests = requests
        self._rate_limits = rate_limits
        self._known: LRUCache[str, str] = LRUCache(REMEMBERED_USERS)

    async def ensure(self, principal: Principal, metadata: EventMetadata, address: str) -> None:
        """Register this caller, unless it was done before. Raises RateLimited or Unavailable."""
        user_id = principal.user_id
        if self._known.get(user_id, "") == self._database.incarnation:
            return
        event = UserRegistered(
            issuer=principal.issuer,
            subject=principal.subject,
            email=principal.email,
            name=principal.name,
        )
        with answering(user_id):
            async with self._requests.transaction() as connection:
                if not await _is_registered(connection, user_id):
                    self._rate_limits.acquire_registration(principal.issuer, address)
                    if await insert_user(connection, user_id, event, metadata.at_ms):
                        await append(connection, user_id, user_id, 0, [event], metadata)
                incarnation = connection.info["incarnation"]
        self._known[user_id] = incarnation


async def _is_registered(connection: AsyncConnection, user_id: str) -> bool:
    query = sa.select(sa.exists().where(users.c.user_id == user_id))
    return bool(await connection.scalar(query))


async def insert_user(
    connection: AsyncConnection, user_id: str, event: UserRegistered, at_ms: int
) -> bool:
    """Write a user's row, unless it is there; say whether it was new."""
    row = {
        "user_id": user_id,
        "issuer": event.issuer,
        "subject": event.subject,
        "email": event.email,
        "name": event.name,
        "created_at_ms": at_ms,
    }
    statement = insert(users).values(row).on_conflict_do_nothing().returning(users.c.user_id)
    return (await connection.execute(statement)).one_or_none() is not None
