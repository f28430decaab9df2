"""What billing does with requests about what users pay for.

Consumes: a user's wish to buy; deliveries of the payment provider's webhook; which subscription a
user has.
Emits: `account.checkout_started.v1`, `account.webhook_processed.v1`,
`account.subscription_changed.v1`, `account.tier_changed.v1`.
Guarantees: nothing of a delivery is read before its signature is verified. A delivery's facts,
their rows and the memory of the delivery are one transaction; deliveries in any order end alike.
Whose a subscription is says the first delivery about it in which the user is signed by us.
On replay: a delivery that was processed changes nothing. A checkout is another one.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.billing_rpc import (
    CheckoutReply,
    CheckoutRequest,
    SubscriptionReply,
    SubscriptionRequest,
    SubscriptionView,
    WebhookOutcome,
    WebhookReply,
    WebhookRequest,
)
from webhost_contracts.events import CheckoutStarted
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EventMetadata
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point

from webhost_billing import store
from webhost_billing.decisions import Refused
from webhost_billing.store import ACCOUNTS
from webhost_billing.subscriptions import decisions, model, resources, signatures
from webhost_billing.subscriptions import store as subscriptions
from webhost_billing.subscriptions.lemonsqueezy import ProviderAway, ProviderRefused
from webhost_billing.subscriptions.provider import Provider
from webhost_billing.subscriptions.resources import Delivery, Unusable

log = structlog.get_logger(__name__)

ACTOR = "provider:lemonsqueezy"
CHECKOUT_GOOD_FOR = timedelta(days=1)
NOT_CONFIGURED = "Nothing is sold at this installation: billing is not configured."

_deliveries = Counter(
    "webhost_billing_webhooks_total",
    "Deliveries of the payment provider's webhook, by what became of them",
    ["outcome"],
)


class SubscriptionHandlers:
    """The requests' handlers; without a provider nothing is sold."""

    def __init__(
        self, database: Database, tiers: Collection[str], provider: Provider | None
    ) -> None:
        self._database = database
        self._tiers = tiers
        self._provider = provider

    async def checkout(self, request: CheckoutRequest) -> CheckoutReply:
        """Make a page on which the user can buy the tier, or say why not."""
        provider = self._provider
        if provider is None:
            return CheckoutReply(unavailable=NOT_CONFIGURED, unconfigured=True)
        try:
            variant_id = decisions.buyable(provider.variants, request.tier)
        except Refused as refusal:
            return CheckoutReply(refused=str(refusal))
        try:
            made = await provider.client.create_checkout(
                variant_id,
                signatures.custom_data(provider.checkout_keys, request.user_id),
                expires_at=(datetime.now(UTC) + CHECKOUT_GOOD_FOR).isoformat(),
                email=request.email,
                name=request.name,
                redirect_url=provider.redirect_url,
                test_mode=provider.test_mode,
            )
        except ProviderAway as error:
            return CheckoutReply(unavailable=error.message)
        except ProviderRefused as error:
            log.error("checkout refused", tier=request.tier, variant=variant_id, reason=str(error))
            reason = (
                "The payment provider refused; who runs this installation finds why in its log."
            )
            return CheckoutReply(unavailable=reason)
        fact = CheckoutStarted(tier=request.tier, variant_id=variant_id, checkout_id=made.id)
        metadata = EventMetadata(
            actor=request.actor,
            request_id=request.request_id,
            traceparent=tracing.traceparent() or request.traceparent,
        )

        async def work(connection: AsyncConnection) -> None:
            account = await store.load(connection, request.user_id)
            await ACCOUNTS.append(connection, account, [fact], metadata)

        await self._database.retry_conflicts(work)
        return CheckoutReply(url=made.url)

    async def webhook(self, request: WebhookRequest) -> WebhookReply:
        """Take a delivery over, once, or say what is wrong with it."""
        reply = await self._delivered(request)
        _deliveries.labels(reply.outcome).inc()
        return reply

    async def subscription(self, request: SubscriptionRequest) -> SubscriptionReply:
        """Answer which subscription counts for a user."""
        async with self._database.transaction() as connection:
            known = await subscriptions.of_user(connection, request.user_id)
        now = now_ms()
        found = model.leading(known.values(), self._tiers, now)
        if found is None or found.status is None:
            return SubscriptionReply()
        return SubscriptionReply(
            subscription=SubscriptionView(
                id=found.id,
                status=found.status,
                tier=found.tier,
                active=model.gives(found, now) is not None,
                updated_at_ms=found.updated_at_ms,
                renews_at_ms=found.renews_at_ms,
                ends_at_ms=found.ends_at_ms,
                trial_ends_at_ms=found.trial_ends_at_ms,
            )
        )

    async def _delivered(self, request: WebhookRequest) -> WebhookReply:
        provider = self._provider
        if provider is None:
            return WebhookReply(outcome="unconfigured", reason=NOT_CONFIGURED)
        secrets = provider.webhook_secrets
        if not signatures.is_delivery(secrets, request.body, request.signature):
            return WebhookReply(outcome="unauthenticated")
        try:
            delivery = resources.delivery_of(
                request.body, provider.variants, provider.checkout_keys
            )
        except Unusable as error:
            log.error("webhook not understood", reason=str(error))
            return WebhookReply(outcome="invalid", reason=str(error))
        if delivery is None:
            return _ignored("it is about no subscription")
        if delivery.test_mode and not provider.test_mode:
            # It makes nobody a subscription, and one that is known from before gives nothing now.
            delivery = resources.giving_nothing(delivery)
        found = delivery.subscription
        if found is not None and found.tier is None:
            log.error("webhook names an unknown variant", variant=found.variant_id)
        outcome = await self._record(request, delivery)
        crash_point("billing.webhook_recorded")
        if outcome == "ignored":
            return _ignored("no delivery has said whose subscription it is", delivery)
        return WebhookReply(outcome=outcome)

    async def _record(self, request: WebhookRequest, delivery: Delivery) -> WebhookOutcome:
        """Append what follows from a delivery, in one transaction. Raises Unavailable."""
        digest = decisions.body_hash(request.body)
        metadata = EventMetadata(
            actor=ACTOR,
            request_id=request.request_id,
            traceparent=tracing.traceparent() or request.traceparent,
        )

        async def work(connection: AsyncConnection) -> WebhookOutcome:
            known = await subscriptions.known(connection, [delivery.subscription_id])
            owner, _ = known.get(delivery.subscription_id, (delivery.user_id, None))
            if owner is None:
                return "ignored"
            await subscriptions.turn(connection, owner)
            if not await subscriptions.remember(connection, digest, metadata.at_ms):
                return "duplicate"
            account = await store.load(connection, owner)
            facts = decisions.process(account, delivery, digest, self._tiers, now_ms())
            await ACCOUNTS.append(connection, account, facts, metadata)
            return "processed"

        return await self._database.retry_conflicts(work)


def _ignored(reason: str, delivery: Delivery | None = None) -> WebhookReply:
    named = {} if delivery is None else {"subscription": delivery.subscription_id}
    log.warning("webhook ignored", reason=reason, **named)
    return WebhookReply(outcome="ignored", reason=reason)
