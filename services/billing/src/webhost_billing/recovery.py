"""Taking facts back: after a restore, from the stream into the tables.

Consumes: billing's own facts that its event table lacks; the caller writes the event rows.
Guarantees: an account, or a period, is what it was when the facts were stated.
On replay: it is once more what the last of them says.
"""

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    CheckoutStarted,
    PeriodSealed,
    PeriodThresholdReached,
    SubscriptionChanged,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.events.base import by_name
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing import decisions, store
from webhost_billing.seals import store as seals
from webhost_billing.subscriptions import store as subscriptions
from webhost_billing.thresholds import store as threshold_facts

TYPES = by_name(
    TierChanged,
    AccountDisabled,
    AccountEnabled,
    CheckoutStarted,
    WebhookProcessed,
    SubscriptionChanged,
    PeriodSealed,
    PeriodThresholdReached,
)
"""All that billing states."""

OWN_SUBJECTS = tuple(subjects.events_of_kind(kind.kind()) for kind in (TierChanged, PeriodSealed))
"""Where it states that."""


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    """Evolve what this fact is about, which the database lacked after a restore."""
    if isinstance(fact.event, PeriodSealed):
        await seals.recover(connection, fact, fact.event)
        return
    if isinstance(fact.event, PeriodThresholdReached):
        await threshold_facts.recover(connection, fact, fact.event)
        return
    if isinstance(fact.event, WebhookProcessed):
        at_ms = fact.envelope.occurred_at_ms
        await subscriptions.remember(connection, fact.event.body_hash, at_ms)
    account = await store.load(connection, fact.envelope.user_id)
    after = decisions.evolve(account, fact.envelope, fact.event)
    await store.save(connection, account, after)
