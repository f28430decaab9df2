"""A billing process that sells, at a store that stands in for LemonSqueezy, and the bus between.

The tests play the api: the store's deliveries reach billing as the api hands them over.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webhost_billing.subscriptions import signatures
from webhost_contracts import ids, subjects
from webhost_contracts.billing_rpc import (
    AssignSubscriptionReply,
    AssignSubscriptionRequest,
    CheckoutReply,
    CheckoutRequest,
    ReconcileSubscriptionsReply,
    ReconcileSubscriptionsRequest,
    SubscriptionReply,
    SubscriptionRequest,
    SubscriptionView,
    WebhookReply,
    WebhookRequest,
)
from webhost_contracts.events import (
    CheckoutStarted,
    SubscriptionChanged,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.events.base import Event, by_name
from webhost_kit.bus import rpc
from webhost_kit.errors import Unavailable
from webhost_kit.keys import base64url
from webhost_local.lemonsqueezy.app import build
from webhost_local.lemonsqueezy.model import ACTIONS, VARIANTS, Checkout, Subscription
from webhost_local.lemonsqueezy.shop import Shop
from webhost_local.lemonsqueezy.store import Store
from webhost_local.lemonsqueezy.webhooks import Webhooks
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.facts import on_stream
from tests.support.harness import Harness, running
from tests.support.infra import Nats, Postgres
from tests.support.serving import serving

API_KEY = "the key of the store's API"
SECRET, OLDER_SECRET = b"the webhook's secret", b"the secret before it"
CHECKOUT_KEY = secrets.token_bytes(32)
RETRY_S = (0.005, 0.025, 0.125)
"""The store's retries, a thousand times as fast: ten minutes are 0.6 s."""
STATUS = {"unauthenticated": 401, "invalid": 400, "unconfigured": 503}
FACTS = by_name(CheckoutStarted, WebhookProcessed, SubscriptionChanged, TierChanged)


def settings(store_url: str, **changes: str) -> dict[str, str]:
    """How billing is configured for this store."""
    return {
        "LEMONSQUEEZY_API_BASE_URL": store_url,
        "LEMONSQUEEZY_API_KEY": API_KEY,
        "LEMONSQUEEZY_STORE_ID": "1",
        "LEMONSQUEEZY_VARIANTS": ",".join(f"{it.id}:{tier}" for tier, it in VARIANTS.items()),
        "LEMONSQUEEZY_WEBHOOK_SECRETS": f"{SECRET.decode()},{OLDER_SECRET.decode()}",
        "LEMONSQUEEZY_CHECKOUT_KEYS": f"c1:{base64url(CHECKOUT_KEY)}",
        "LEMONSQUEEZY_TEST_MODE": "true",
        **changes,
    }


def a_user() -> str:
    return ids.user_id("test", secrets.token_hex(6))


@dataclass(kw_only=True)
class Selling(Harness):
    """Billing and its store; `shop` is what happens there."""

    directory: Path
    port: int = field(default_factory=free_port)
    shop: Shop = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        webhooks = Webhooks(self.post, SECRET, RETRY_S)
        self.shop = Shop(Store(self.directory / "store.json"), webhooks, self.url)
        crash_file = str(self.directory / "crash")
        self.service = self.process(
            "webhost_billing", WEBHOST_CRASH_FILE=crash_file, **settings(self.url)
        )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> int | None:
        """Hand a delivery over; None where there was no answer."""
        try:
            reply = await self.deliver(body, headers["X-Signature"], timeout_s=rpc.TIMEOUT_S)
        except Unavailable:
            return None
        return STATUS.get(reply.outcome, 200)

    async def deliver(
        self, body: bytes, signature: str | None = None, *, timeout_s: float = 15
    ) -> WebhookReply:
        signature = signatures.delivery_signature(SECRET, body) if signature is None else signature
        request = WebhookRequest(body=body, signature=signature)
        subject = subjects.RPC_WEBHOOK
        return await rpc.call(self.bus, subject, request, WebhookReply, timeout_s=timeout_s)

    async def checkout(self, user_id: str, tier: str = "pro", **fields: Any) -> CheckoutReply:
        request = CheckoutRequest(user_id=user_id, tier=tier, actor=f"user:{user_id}", **fields)
        return await rpc.call(self.bus, subjects.RPC_CHECKOUT, request, CheckoutReply, timeout_s=15)

    async def page(self, user_id: str, tier: str = "pro") -> Checkout:
        """What the store holds of a new checkout."""
        reply = await self.checkout(user_id, tier)
        assert reply.url is not None, reply
        return self.shop.store.checkouts[reply.url.rpartition("/")[2]]

    async def bought(self, user_id: str, tier: str = "pro", email: str = "a@b.c") -> Subscription:
        """A subscription that the user has bought, and whose deliveries have ended."""
        sold = self.shop.buy(await self.page(user_id, tier), email, "A")
        await self.shop.webhooks.idle()
        return sold

    async def act(self, subscription: Subscription, *actions: str) -> None:
        """Do this at the store; return when its deliveries have ended."""
        for action in actions:
            self.shop.change(subscription, ACTIONS[action][1])
        await self.shop.webhooks.idle()

    async def tier(self, user_id: str) -> str:
        query = "SELECT tier FROM accounts WHERE user_id = :user"
        return await self.scalar(query, user=user_id) or "free"

    async def until_tier(self, user_id: str, tier: str) -> None:
        async def reached() -> bool:
            return await self.tier(user_id) == tier

        await eventually(reached, f"{user_id} to be on {tier}")

    async def subscription(self, user_id: str) -> SubscriptionView | None:
        request = SubscriptionRequest(user_id=user_id)
        reply = await rpc.call(self.bus, subjects.RPC_SUBSCRIPTION, request, SubscriptionReply)
        return reply.subscription

    async def reconcile(self, *, dry_run: bool = False) -> ReconcileSubscriptionsReply:
        request = ReconcileSubscriptionsRequest(operator="olivia", dry_run=dry_run)
        subject = subjects.RPC_RECONCILE_SUBSCRIPTIONS
        return await rpc.call(self.bus, subject, request, ReconcileSubscriptionsReply, timeout_s=30)

    async def assign(self, subscription: Subscription, user_id: str) -> AssignSubscriptionReply:
        request = AssignSubscriptionRequest(
            subscription_id=str(subscription.id), user_id=user_id, operator="olivia"
        )
        subject = subjects.RPC_ASSIGN_SUBSCRIPTION
        return await rpc.call(self.bus, subject, request, AssignSubscriptionReply, timeout_s=15)

    async def stated(self, user_id: str) -> list[Event]:
        """What is on the stream of this user's account, once the outbox is empty."""
        await self.until_scalar("SELECT count(*) FROM outbox", 0, "the facts to be published")
        subject = subjects.event(user_id, "account", user_id)
        return [event for _, event in await on_stream(self.bus, subjects.EVENTS, subject, FACTS)]

    async def close(self) -> None:
        await self.shop.webhooks.close()
        await super().close()


@asynccontextmanager
async def selling(nats: Nats, postgres: Postgres, directory: Path) -> AsyncIterator[Selling]:
    dsn = postgres.create_database()
    try:
        async with (
            running(Selling, dsn, nats.new_account(), directory=directory) as it,
            serving(build(it.shop, API_KEY), it.port),
        ):
            await it.service.start()
            yield it
    finally:
        postgres.drop_database(dsn)


async def at_once(*work: Any) -> list[Any]:
    """Do all of it at the same time."""
    return list(await asyncio.gather(*work))
