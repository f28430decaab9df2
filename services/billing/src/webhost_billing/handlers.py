"""What billing does with a question.

Consumes: questions about usage; an operator's order to put a user on a tier.
Emits: `account.tier_changed.v1`. Guarantees: fact, row and outbox entry are one transaction.
On replay: a user who is on that tier already stays there, and no fact is stated.
"""

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.questions import (
    RecentEventsAnswer,
    RecentEventsQuestion,
    SetTierAnswer,
    SetTierQuestion,
    UsageAnswer,
    UsageQuestion,
)
from webhost_kit.database import Database
from webhost_kit.eventstore import Circumstances, append

from webhost_billing import decisions, queries
from webhost_billing.decisions import Account, Refused


class Handlers:
    """The questions' handlers."""

    def __init__(self, database: Database, tiers: Collection[str]) -> None:
        self._database = database
        self._tiers = tiers

    async def usage(self, question: UsageQuestion) -> UsageAnswer:
        """Answer what a user used in a period."""
        async with self._database.transaction() as connection:
            return await queries.usage(connection, question)

    async def recent_events(self, question: RecentEventsQuestion) -> RecentEventsAnswer:
        """Answer which calls were counted lately."""
        async with self._database.transaction() as connection:
            return await queries.recent_events(connection, question)

    async def set_tier(self, question: SetTierQuestion) -> SetTierAnswer:
        """Put a user on a tier, or say why not."""

        async def work(connection: AsyncConnection) -> SetTierAnswer:
            account = await queries.account(connection, question.user_id)
            events = decisions.set_tier(
                account, question.user_id, question.tier, question.operator, self._tiers
            )
            if events:
                await append(
                    connection,
                    question.user_id,
                    question.user_id,
                    account.version,
                    events,
                    Circumstances(actor=f"operator:{question.operator}"),
                )
                state = Account(account.version + len(events), question.tier)
                await queries.put_account(connection, question.user_id, state)
            return SetTierAnswer(tier=question.tier)

        try:
            return await self._database.decide(work)
        except Refused as refusal:
            return SetTierAnswer(refused=str(refusal))
