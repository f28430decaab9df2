"""The routes of tiers, subscriptions and checkouts, and the webhook; the tests play billing."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from nats.aio.msg import Msg
from webhost_api.rate_limits import CHECKOUTS_PER_HOUR
from webhost_contracts import subjects, wire
from webhost_contracts.billing_rpc import (
    CheckoutReply,
    CheckoutRequest,
    SubscriptionReply,
    SubscriptionRequest,
    SubscriptionView,
    WebhookReply,
    WebhookRequest,
)
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.events import AccountDisabled
from webhost_contracts.wire import Wire

from tests.integration.api.harness import ORIGIN, Harness, User, ok, problem
from tests.support.deadline import eventually

PATH = "/v1/billing/webhook"
BODY = b'{"meta": {"event_name": "subscription_updated"},  "data": {"id": "\xc3\xa9"}}'
KINDS = {
    subjects.RPC_CHECKOUT: CheckoutRequest,
    subjects.RPC_WEBHOOK: WebhookRequest,
    subjects.RPC_SUBSCRIPTION: SubscriptionRequest,
}


@dataclass
class Billing:
    """What the api asked for, and what is answered."""

    asked: list[Any] = field(default_factory=list[Any])
    reply: Wire = field(default_factory=SubscriptionReply)

    async def on(self, message: Msg) -> None:
        self.asked.append(wire.decode(message.data, KINDS[message.subject]))
        await message.respond(wire.encode(self.reply))


@pytest.fixture
async def billing(harness: Harness) -> AsyncIterator[Billing]:
    it = Billing()
    taken = [await harness.bus.client.subscribe(subject, cb=it.on) for subject in KINDS]
    await harness.bus.client.flush()
    yield it
    for subscription in taken:
        await subscription.unsubscribe()


@pytest.mark.accept("8.6.unconfigured")
async def test_without_billing_tiers_are_listed_and_the_rest_is_unavailable(
    harness: Harness, user: User
) -> None:
    listed = ok(await user.http.get("/v1/billing/tiers"))["tiers"]
    assert [tier["name"] for tier in listed] == list(load_tiers())
    assert listed[0]["entitlements"]["requests"] == 1000
    assert listed[-1]["entitlements"]["requests"] is None
    problem(await user.http.get("/v1/billing/subscription"), 503, "UNAVAILABLE")
    wanted = {"tier": "pro"}
    problem(await user.http.post("/v1/billing/checkout", json=wanted), 503, "UNAVAILABLE")
    signed = {"X-Signature": "0" * 64}
    anybody = harness.client()
    problem(await anybody.post(PATH, content=BODY, headers=signed), 503, "UNAVAILABLE")


@pytest.mark.accept("8.6.unconfigured")
async def test_where_nothing_is_sold_that_is_what_is_said(user: User, billing: Billing) -> None:
    billing.reply = CheckoutReply(unavailable="Nothing is sold here.", unconfigured=True)
    refused = await user.http.post("/v1/billing/checkout", json={"tier": "pro"})
    said = problem(refused, 503, "UNAVAILABLE")
    assert (said["message"], said["retryable"]) == ("Nothing is sold here.", True)
    assert refused.headers["retry-after"].isdecimal()


@pytest.mark.accept("8.6.unconfigured")
async def test_where_nothing_is_sold_nobody_is_paged(
    harness: Harness, user: User, billing: Billing
) -> None:
    async def of_whom() -> tuple[float, float]:
        counted = harness.service.counted
        found = [
            await counted("webhost_http_problems_total", code="UNAVAILABLE", fault=fault)
            for fault in ("ours", "others")
        ]
        return found[0], found[1]

    ours, others = await of_whom()
    wanted, signed = {"tier": "pro"}, {"X-Signature": "a"}
    billing.reply = CheckoutReply(unavailable="Nothing is sold here.", unconfigured=True)
    problem(await user.http.post("/v1/billing/checkout", json=wanted), 503, "UNAVAILABLE")
    billing.reply = WebhookReply(outcome="unconfigured")
    problem(await harness.client().post(PATH, content=BODY, headers=signed), 503, "UNAVAILABLE")
    assert await of_whom() == (ours, others + 2)
    billing.reply = CheckoutReply(unavailable="The provider is away.")
    problem(await user.http.post("/v1/billing/checkout", json=wanted), 503, "UNAVAILABLE")
    assert await of_whom() == (ours + 1, others + 2)


async def test_the_callers_subscription_or_null(user: User, billing: Billing) -> None:
    assert ok(await user.http.get("/v1/billing/subscription")) == {"subscription": None}
    billing.reply = SubscriptionReply(
        subscription=SubscriptionView(
            id="9", status="cancelled", tier="pro", active=True, updated_at_ms=1, ends_at_ms=2
        )
    )
    assert ok(await user.http.get("/v1/billing/subscription")) == {
        "subscription": {
            "id": "9",
            "status": "cancelled",
            "tier": "pro",
            "active": True,
            "endsAtMs": 2,
            "updatedAtMs": 1,
        }
    }
    assert billing.asked == [SubscriptionRequest(user_id=user.id)] * 2


@pytest.mark.accept("8.6.checkout")
async def test_a_checkout_is_made_once_per_idempotency_key(
    harness: Harness, billing: Billing
) -> None:
    user = harness.user(email="kim@example.com", name="Kim")
    billing.reply = CheckoutReply(url="https://store.example/1")
    once = {"Idempotency-Key": "buy-1"}
    wanted = {"tier": "pro"}
    made = ok(await user.http.post("/v1/billing/checkout", json=wanted, headers=once))
    assert made == {"checkoutUrl": "https://store.example/1"}
    billing.reply = CheckoutReply(url="https://store.example/2")
    again = ok(await user.http.post("/v1/billing/checkout", json=wanted, headers=once))
    assert again == made
    other = await user.http.post("/v1/billing/checkout", json={"tier": "free"}, headers=once)
    problem(other, 409, "CONFLICT")
    [request] = billing.asked
    assert (request.user_id, request.tier, request.actor) == (user.id, "pro", f"user:{user.id}")
    assert (request.email, request.name) == ("kim@example.com", "Kim")


async def test_a_users_checkouts_are_limited(harness: Harness, billing: Billing) -> None:
    billing.reply = CheckoutReply(url="https://store.example/1")
    greedy, other = harness.user(), harness.user()
    wanted = {"tier": "pro"}
    for _ in range(CHECKOUTS_PER_HOUR):
        ok(await greedy.http.post("/v1/billing/checkout", json=wanted))
    refused = await greedy.http.post("/v1/billing/checkout", json=wanted)
    problem(refused, 429, "RATE_LIMITED")
    assert len(billing.asked) == CHECKOUTS_PER_HOUR
    ok(await other.http.post("/v1/billing/checkout", json=wanted))


@pytest.mark.parametrize("body", [{}, {"tier": 1}, {"tier": ""}, {"tier": "pro", "userId": "x"}])
async def test_a_checkout_of_another_shape_is_refused(
    user: User, billing: Billing, body: dict[str, Any]
) -> None:
    problem(await user.http.post("/v1/billing/checkout", json=body), 400, "INVALID_REQUEST")
    assert billing.asked == []


async def test_what_billing_refuses_is_wrong_with_the_tier(
    harness: Harness, user: User, billing: Billing
) -> None:
    billing.reply = CheckoutReply(refused="There is nothing to buy.")
    refused = await user.http.post("/v1/billing/checkout", json={"tier": "free"})
    error = problem(refused, 400, "INVALID_REQUEST")
    issue = {"path": ["tier"], "message": "There is nothing to buy."}
    assert error["details"] == {"issues": [issue]}
    await harness.given(user.id, user.id, AccountDisabled(source="operator:kim"))

    async def disabled() -> bool:
        answer = await user.http.post("/v1/billing/checkout", json={"tier": "pro"})
        return answer.status_code == 403

    await eventually(disabled, "a disabled account to buy nothing")


@pytest.mark.accept("8.6.signed")
async def test_a_delivery_reaches_billing_byte_for_byte(harness: Harness, billing: Billing) -> None:
    anybody = harness.client(Origin=ORIGIN)
    headers = {"X-Signature": "é".encode("latin-1"), "X-Request-Id": "req-1"}
    for outcome in ("processed", "duplicate", "ignored"):
        billing.reply = WebhookReply(outcome=outcome)
        answer = await anybody.post(PATH, content=BODY, headers=headers)
        assert ok(answer) == {"outcome": outcome}
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert billing.asked[0] == WebhookRequest(body=BODY, signature="é", request_id="req-1")
    for outcome, status, code in (
        ("unauthenticated", 401, "UNAUTHENTICATED"),
        ("invalid", 400, "INVALID_REQUEST"),
        ("unconfigured", 503, "UNAVAILABLE"),
    ):
        billing.reply = WebhookReply(outcome=outcome)
        problem(await anybody.post(PATH, content=BODY, headers=headers), status, code)


@pytest.mark.accept("8.6.signed")
async def test_what_has_not_one_signature_reaches_nobody(
    harness: Harness, user: User, billing: Billing
) -> None:
    billing.reply = WebhookReply(outcome="processed")
    anybody = harness.client()
    for headers in (
        [],
        [("X-Signature", "a"), ("X-Signature", "a")],
        [("X-Signature", "a"), ("x-signature", "b")],
        [("X-Signature", "a" * 201)],
    ):
        problem(await anybody.post(PATH, content=BODY, headers=headers), 401, "UNAUTHENTICATED")
    problem(await user.http.post(PATH, content=BODY), 401, "UNAUTHENTICATED")
    signed = [("X-Signature", "a")]
    big = await anybody.post(PATH, content=b" " * (64 * 1024 + 1), headers=signed)
    problem(big, 413, "PAYLOAD_TOO_LARGE")
    problem(await anybody.get(PATH), 405, "METHOD_NOT_ALLOWED")
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    problem(await anybody.options(PATH, headers=preflight), 405, "METHOD_NOT_ALLOWED")
    assert billing.asked == []
