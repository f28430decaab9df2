"""What billing does with a request.

Consumes: requests about usage; an operator's order to put a user on a tier.
Emits: `account.tier_changed.v1`. Guarantees: fact, row and outbox entry are one transaction.
On replay: a user who is on that tier already stays there, and no fact is stated.
"""

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import TierChanged
from webhost_contracts.rpc import (
    RecentEventsReply,
    RecentEventsRequest,
    SetTierReply,
    SetTierRequest,
    UsageReply,
    UsageRequest,
)
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.store import EventMetadata, append

from webhost_billing import decisions, queries
from webhost_billing.decisions import Account, Refused


class Handlers:
    """The requests' handlers."""

    def __init__(self, database: Database, tiers: Collection[str]) -> None:
        self._database = database
        self._tiers = tiers

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Answer what a user used in a period."""
        async with self._database.transaction() as connection:
            return await queries.usage(connection, request)

    async def recent_events(self, request: RecentEventsRequest) -> RecentEventsReply:
        """Answer which calls were counted lately."""
        async with self._database.transaction() as connection:
            return await queries.recent_events(connection, request)

    async def set_tier(self, request: SetTierRequest) -> SetTierReply:
        """Put a user on a tier, or say why not."""

        async def work(connection: AsyncConnection) -> SetTierReply:
            account = await queries.account(connection, request.user_id)
            events = decisions.set_tier(
                account, request.user_id, request.tier, request.operator, self._tiers
            )
            if events:
                await append(
                    connection,
                    request.user_id,
                    request.user_id,
                    account.version,
                    events,
                    EventMetadata(actor=f"operator:{request.operator}"),
                )
                state = Account(account.version + len(events), request.tier)
                await queries.put_account(connection, request.user_id, state)
            return SetTierReply(tier=request.tier)

        try:
            return await self._database.retry_conflicts(work)
        except Refused as refusal:
            return SetTierReply(refused=str(refusal))


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    """Make the account what this fact says, which the database lacked after a restore."""
    if isinstance(fact.event, TierChanged):
        state = Account(fact.envelope.version, fact.event.tier)
        await queries.put_account(connection, fact.envelope.user_id, state)
