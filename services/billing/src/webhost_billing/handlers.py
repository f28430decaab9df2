"""What billing does with a request.

Consumes: requests about usage; an operator's request to put a user on a tier, or to disable or
enable the account.
Emits: `account.tier_changed.v1`, `account.disabled.v1`, `account.enabled.v1`.
Guarantees: fact, row and outbox entry are one transaction.
On replay: what is already so stays so, and no fact is stated.
"""

from collections.abc import Callable, Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import Event
from webhost_contracts.rpc import (
    SetAccountStatusReply,
    SetAccountStatusRequest,
    SetTierReply,
    SetTierRequest,
)
from webhost_contracts.usage_feed import (
    UsageExportReply,
    UsageExportRequest,
    UsageFeedReply,
    UsageFeedRequest,
)
from webhost_contracts.usage_rpc import (
    RecentEventsReply,
    RecentEventsRequest,
    SilentAgentsReply,
    SilentAgentsRequest,
    UsageReply,
    UsageRequest,
)
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.outbox import is_published
from webhost_kit.eventsourcing.store import EventMetadata

from webhost_billing import decisions, queries, silence, store
from webhost_billing.decisions import Account, Refused
from webhost_billing.feed import queries as feed_queries
from webhost_billing.store import ACCOUNTS

PUBLISHED_S = 1.0
"""An operator who disables an account waits so long to hear that it is in force."""


class Handlers:
    """The requests' handlers."""

    def __init__(
        self, database: Database, tiers: Collection[str], installation_id: str = ""
    ) -> None:
        self._database = database
        self._tiers = tiers
        self._installation_id = installation_id

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Answer what a user used in a period."""
        async with self._database.transaction() as connection:
            return await queries.usage(connection, request)

    async def recent_events(self, request: RecentEventsRequest) -> RecentEventsReply:
        """Answer which calls were counted lately."""
        async with self._database.transaction() as connection:
            return await queries.recent_events(connection, request)

    async def usage_feed(self, request: UsageFeedRequest) -> UsageFeedReply:
        """Answer a page of the feed of settled usage, or say why not."""
        async with self._database.snapshot() as connection:
            try:
                return await feed_queries.page(connection, request, self._installation_id)
            except feed_queries.Refused as refused:
                return UsageFeedReply(refused=refused.refusal)

    async def usage_export(self, request: UsageExportRequest) -> UsageExportReply:
        """Answer what an export of a period has to come to, or say why there can be none."""
        async with self._database.snapshot() as connection:
            try:
                return await feed_queries.export(connection, request, self._installation_id)
            except feed_queries.Refused as refused:
                return UsageExportReply(refused=refused.refusal)

    async def silent_agents(self, request: SilentAgentsRequest) -> SilentAgentsReply:
        """Answer whose calls were counted without a report of their Workers."""
        async with self._database.transaction() as connection:
            return await silence.silent_agents(connection, request, now_ms())

    async def set_tier(self, request: SetTierRequest) -> SetTierReply:
        """Put a user on a tier, or say why not."""

        def decide(account: Account) -> Sequence[Event]:
            return decisions.set_tier(
                account, request.tier, request.operator, self._tiers, now_ms()
            )

        try:
            account = await self._change(request.user_id, request.operator, decide)
        except Refused as refusal:
            return SetTierReply(refused=str(refusal))
        return SetTierReply(tier=account.tier)

    async def set_account_status(self, request: SetAccountStatusRequest) -> SetAccountStatusReply:
        """Disable or enable an account, or say why not."""

        def decide(account: Account) -> Sequence[Event]:
            return decisions.set_status(account, request.status, request.operator, request.reason)

        try:
            await self._change(request.user_id, request.operator, decide)
        except Refused as refusal:
            return SetAccountStatusReply(refused=str(refusal))
        published = await is_published(self._database, request.user_id, within_s=PUBLISHED_S)
        return SetAccountStatusReply(status=request.status, waits=not published)

    async def _change(
        self, user_id: str, operator: str, decide: Callable[[Account], Sequence[Event]]
    ) -> Account:
        """Append what an operator's request comes to. Raises what `decide` raises."""

        async def work(connection: AsyncConnection) -> Account:
            account = await store.load(connection, user_id)
            metadata = EventMetadata(actor=f"operator:{operator}")
            return (await ACCOUNTS.append(connection, account, decide(account), metadata)).state

        return await self._database.retry_conflicts(work)
