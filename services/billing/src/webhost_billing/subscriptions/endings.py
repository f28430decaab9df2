"""What ends by the clock: a cancelled subscription gives its tier until its end, delivery or not.

Emits: `account.tier_changed.v1`. Guarantees: fact and rows are one transaction; an end takes effect
within EVERY_S or so, at whichever process looks first.
On replay: what is settled stays as it is.
"""

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EventMetadata
from webhost_kit.periodic import every

from webhost_billing import decisions, store
from webhost_billing.store import ACCOUNTS
from webhost_billing.subscriptions import store as subscriptions

ACTOR = "service:billing"
EVERY_S = 0.7
FORGET_EVERY_S = 3600.0
REMEMBERED_MS = 90 * 24 * 3600 * 1000
"""How long a delivery is recognised; the provider gives up after minutes, but can be told to send
one again. An old one that comes even later is older than what is known, and changes nothing."""


class Endings:
    """Settles what has ended."""

    def __init__(self, database: Database, tiers: Collection[str]) -> None:
        self._database = database
        self._tiers = tiers

    async def run(self) -> None:
        """Settle for the lifetime of the process."""
        await every(EVERY_S, self.settle, "endings")

    async def forget(self) -> None:
        """Forget old deliveries for the lifetime of the process."""
        await every(FORGET_EVERY_S, self._forget, "deliveries")

    async def settle(self) -> None:
        """Settle what has ended until now. Raises Unavailable."""
        async with self._database.transaction() as connection:
            users = await subscriptions.users_due(connection, now_ms())
        for user_id in users:
            await self._database.retry_conflicts(lambda c, user_id=user_id: self._user(c, user_id))

    async def _user(self, connection: AsyncConnection, user_id: str) -> None:
        await subscriptions.turn(connection, user_id)
        now = now_ms()
        account = await store.load(connection, user_id)
        facts = decisions.settle(account, self._tiers, now)
        await ACCOUNTS.append(connection, account, facts, EventMetadata(actor=ACTOR))
        await subscriptions.settled(connection, user_id, now)

    async def _forget(self) -> None:
        async with self._database.transaction() as connection:
            await subscriptions.forget(connection, now_ms() - REMEMBERED_MS)
