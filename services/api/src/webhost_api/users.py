"""Registration: the first valid request of a new subject makes the user.

Emits: `user.registered.v1`. Guarantees: once per user, however many first requests come at once.
"""

from cachetools import LRUCache
from sqlalchemy.dialects.postgresql import insert
from webhost_contracts.events import UserRegistered
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EventMetadata, append
from webhost_kit.http.auth import Principal

from webhost_api.tables import users

REMEMBERED_USERS = 100_000


class Users:
    """Registers who is new, and remembers who is not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: LRUCache[str, bool] = LRUCache(REMEMBERED_USERS)

    async def ensure(self, principal: Principal, who: EventMetadata) -> None:
        """Register this caller, unless it was done before. Raises Unavailable."""
        if self._known.get(principal.user_id):
            return
        await self._register(principal, who)
        self._known[principal.user_id] = True

    async def _register(self, principal: Principal, who: EventMetadata) -> None:
        row = {
            "user_id": principal.user_id,
            "issuer": principal.issuer,
            "subject": principal.subject,
            "email": principal.email,
            "name": principal.name,
            "created_at_ms": who.at_ms,
        }
        event = UserRegistered(
            issuer=principal.issuer,
            subject=principal.subject,
            email=principal.email,
            name=principal.name,
        )
        async with self._database.transaction() as connection:
            inserted = await connection.execute(
                insert(users).values(row).on_conflict_do_nothing().returning(users.c.user_id)
            )
            if inserted.one_or_none() is not None:
                await append(connection, principal.user_id, principal.user_id, 0, [event], who)
