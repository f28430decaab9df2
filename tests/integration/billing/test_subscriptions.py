"""Tiers by subscription: deliveries of a store that stands in for LemonSqueezy, and outages."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from webhost_billing.subscriptions import signatures
from webhost_billing.subscriptions.endings import REMEMBERED_MS, Endings
from webhost_billing.subscriptions.lemonsqueezy import LemonSqueezy
from webhost_billing.subscriptions.provider import Provider
from webhost_billing.subscriptions.reconciliation import Reconciliation
from webhost_contracts import subjects
from webhost_contracts.billing_rpc import (
    ReconcileSubscriptionsRequest,
    WebhookReply,
)
from webhost_contracts.events import (
    CheckoutStarted,
    SubscriptionChanged,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit.bus import rpc
from webhost_local.lemonsqueezy import resources
from webhost_local.lemonsqueezy.model import ACTIONS, VARIANTS, Subscription

from tests.integration.billing.selling import (
    API_KEY,
    OLDER_SECRET,
    Selling,
    a_user,
    at_once,
    selling,
    settings,
)
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres

TIERS = ("free", "starter", "pro", "enterprise")


@pytest.fixture(scope="module")
async def store(
    nats_server: Nats, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Selling]:
    """One for all tests that leave it running."""
    async with selling(nats_server, postgres_server, tmp_path_factory.mktemp("store")) as it:
        yield it


@pytest.fixture
async def own_store(
    nats_server: Nats, postgres_server: Postgres, tmp_path: Path
) -> AsyncIterator[Selling]:
    async with selling(nats_server, postgres_server, tmp_path) as it:
        yield it


def recorded(store: Selling, sold: Subscription, *actions: str) -> list[bytes]:
    """The deliveries that the store would send of a life, from its beginning, none of them sent."""
    sent: list[bytes] = []

    def tell(*names: str) -> None:
        for name in names:
            content = resources.delivery(name, sold, store.shop.store.next_id(), store.url)
            sent.append(msgspec.json.encode(content))

    tell("subscription_created", "subscription_payment_success")
    for action in actions:
        tell(*store.shop.store.change(sold, ACTIONS[action][1]), "subscription_updated")
    return sent


async def sold_silently(store: Selling, user_id: str, tier: str = "pro") -> Subscription:
    """A purchase that no delivery tells of."""
    return store.shop.store.buy(await store.page(user_id, tier), "quiet@b.c", "Q")


@pytest.mark.accept("8.6.checkout")
async def test_a_purchase_gives_its_tier_and_an_end_takes_it(store: Selling) -> None:
    user = a_user()
    assert await store.subscription(user) is None
    sold = await store.bought(user)
    await store.until_tier(user, "pro")
    view = await store.subscription(user)
    assert view is not None
    assert (view.id, view.status, view.tier, view.active) == (str(sold.id), "active", "pro", True)
    assert view.renews_at_ms is not None

    await store.act(sold, "cancel")
    assert await store.tier(user) == "pro"
    await store.act(sold, "expire")
    await store.until_tier(user, "free")
    view = await store.subscription(user)
    assert view is not None
    assert (view.status, view.active) == ("expired", False)

    facts = await store.stated(user)
    assert Counter(type(fact) for fact in facts) == {
        CheckoutStarted: 1,
        WebhookProcessed: 6,
        SubscriptionChanged: 3,
        TierChanged: 2,
    }
    assert [f.status for f in facts if isinstance(f, SubscriptionChanged)] == [
        *("active", "cancelled", "expired"),
    ]


@pytest.mark.accept("8.6.order")
async def test_deliveries_in_every_order_and_twice_end_alike(store: Selling) -> None:
    """Each order is of a user of its own, and each delivery is sent twice at the same time."""
    chosen = random.Random(8)
    for actions, tier in (
        (("to-enterprise", "cancel", "resume"), "enterprise"),
        (("fail-payment", "give-up", "recover", "cancel", "expire"), "free"),
    ):
        for _ in range(4):
            user = a_user()
            sent = recorded(store, await sold_silently(store, user), *actions)
            chosen.shuffle(sent)
            replies: list[WebhookReply] = []
            for body in sent:
                replies += await at_once(store.deliver(body), store.deliver(body))
            replies += await at_once(*map(store.deliver, sent))
            assert await store.tier(user) == tier, sent
            assert Counter(reply.outcome for reply in replies) == {
                "processed": len(sent),
                "duplicate": 2 * len(sent),
            }
            processed = [f for f in await store.stated(user) if isinstance(f, WebhookProcessed)]
            assert len(processed) == len(sent)


@pytest.mark.accept("8.6.order")
async def test_all_deliveries_at_the_same_time_end_alike(store: Selling) -> None:
    user = a_user()
    sent = recorded(
        store, await sold_silently(store, user), "to-starter", "pause", "unpause", "to-enterprise"
    )
    for reply in await at_once(*map(store.deliver, [*sent, *sent, *reversed(sent)])):
        assert reply.outcome in ("processed", "duplicate")
    assert await store.tier(user) == "enterprise"


@pytest.mark.accept("8.6.ends")
async def test_a_cancelled_subscription_ends_without_a_delivery(store: Selling) -> None:
    user = a_user()
    sold = await store.bought(user)
    sold.renews_at = store.shop.store.subscriptions[0].created_at + 2
    await store.act(sold, "cancel")
    assert await store.tier(user) == "pro"
    await store.until_tier(user, "free")
    [*_, ended] = await store.stated(user)
    assert ended == TierChanged(tier="free", previous_tier="pro", source="subscription")
    view = await store.subscription(user)
    assert view is not None
    assert (view.status, view.active) == ("cancelled", False)
    assert await store.scalar("SELECT count(*) FROM subscriptions WHERE due_at_ms < 2e12") == 0


@pytest.mark.accept("8.6.gives")
async def test_an_operators_tier_and_a_subscriptions_do_not_undo_each_other(
    store: Selling,
) -> None:
    user = a_user()

    async def set_tier(tier: str) -> SetTierReply:
        request = SetTierRequest(user_id=user, tier=tier, operator="olivia")
        return await rpc.call(store.bus, subjects.RPC_SET_TIER, request, SetTierReply)

    assert (await set_tier("starter")).tier == "starter"
    sold = await store.bought(user)
    assert await store.tier(user) == "pro"
    assert (await set_tier("free")).tier == "pro"
    assert (await set_tier("enterprise")).tier == "enterprise"
    await store.act(sold, "expire")
    assert await store.tier(user) == "enterprise"
    assert (await set_tier("free")).tier == "free"


@pytest.mark.accept("8.6.whose")
async def test_a_subscription_stays_with_whom_it_was_first_seen(store: Selling) -> None:
    user, other = a_user(), a_user()
    sold = await store.bought(user)
    # A later delivery with another user's good signature: somebody edited a link.
    sold.custom = (await store.page(other)).custom
    await store.act(sold, "to-enterprise")
    assert (await store.tier(user), await store.tier(other)) == ("enterprise", "free")

    # A purchase that names nobody, and one whose user was edited, are nobody's.
    for custom in ({}, {"user_id": other}, {**sold.custom, "user_id": user}):
        page = await store.page(other)
        page.custom = custom
        stray = store.shop.buy(page, "stray@b.c", "S")
        await store.shop.webhooks.idle()
        told = [it for it in store.shop.webhooks.attempted if it.subscription_id == stray.id]
        assert [it.answers[-1] for it in told] == [200] * 3
    assert await store.tier(other) == "free"


@pytest.mark.accept("8.6.whose")
async def test_a_payment_that_comes_first_says_whose_it_is(store: Selling) -> None:
    user = a_user()
    sold = await sold_silently(store, user)
    created, paid = recorded(store, sold)
    assert (await store.deliver(paid)).outcome == "processed"
    assert await store.subscription(user) is None
    # A delivery that says nothing of the user is taken all the same now.
    sold.custom = {}
    [silent, _] = recorded(store, sold)
    assert (await store.deliver(silent)).outcome == "processed"
    assert await store.tier(user) == "pro"
    assert (await store.deliver(created)).outcome == "processed"


@pytest.mark.accept("8.6.signed")
async def test_each_active_secret_is_good_and_no_other(store: Selling) -> None:
    user = a_user()
    sent = recorded(store, await sold_silently(store, user))
    older = signatures.delivery_signature(OLDER_SECRET, sent[0])
    assert (await store.deliver(sent[0], older)).outcome == "processed"
    for bad in ("", "é" * 64, older.upper(), older[:-1], f"{older} ", "0" * 64):
        assert (await store.deliver(sent[1], bad)).outcome == "unauthenticated"
    unusable = b'{"meta": {"event_name": "subscription_updated"}, "data": []}'
    assert (await store.deliver(unusable)).outcome == "invalid"
    other = b'{"meta": {"event_name": "order_created"}, "data": {"type": "orders", "id": "1"}}'
    assert (await store.deliver(other)).outcome == "ignored"
    assert (await store.deliver(other, "0" * 64)).outcome == "unauthenticated"


@pytest.mark.accept("8.6.order")
async def test_what_was_bought_in_test_mode_ends_with_it(own_store: Selling) -> None:
    store = own_store
    read_back, told, new = a_user(), a_user(), a_user()
    page = await store.page(new, "pro")
    sold = await store.bought(told, "enterprise")
    await store.bought(read_back, "enterprise", "b@b.c")
    await store.service.stop()
    store.service = store.process(
        "webhost_billing", **settings(store.url, LEMONSQUEEZY_TEST_MODE="false")
    )
    await store.service.start()
    await store.act(sold, "cancel")
    assert await store.tier(told) == "free"
    assert await store.tier(read_back) == "enterprise"
    await store.reconcile()
    assert await store.tier(read_back) == "free"
    [created, *_] = recorded(store, store.shop.store.buy(page, "n@b.c", "N"))
    assert (await store.deliver(created)).outcome == "ignored"
    assert await store.tier(new) == "free"


async def test_a_tier_that_is_not_sold_is_refused(store: Selling) -> None:
    for tier in ("free", "gold"):
        reply = await store.checkout(a_user(), tier)
        assert reply.url is None
        assert "starter, pro, enterprise" in str(reply.refused)


@pytest.mark.accept("8.6.checkout")
async def test_a_checkout_names_the_buyer_and_ends_in_a_day(store: Selling) -> None:
    user = a_user()
    reply = await store.checkout(user, "starter", email="kim@example.com", name="Kim")
    made = store.shop.store.checkouts[str(reply.url).rpartition("/")[2]]
    assert (made.variant_id, made.email, made.name) == (1001, "kim@example.com", "Kim")
    assert made.custom["user_id"] == user
    assert made.expires_at is not None
    assert 0 < made.expires_at - made.created_at <= 24 * 3600 + 1


@pytest.mark.accept("8.6.outage")
@pytest.mark.accept("8.6.order")
async def test_an_outage_of_ten_minutes_in_the_middle_is_made_good(own_store: Selling) -> None:
    """The provider gives up after two and a half minutes; time runs a thousand times as fast."""
    store = own_store
    ends, upgrades, resumes, late = a_user(), a_user(), a_user(), a_user()
    known = {user: await store.bought(user, "pro", f"{user}@b.c") for user in (ends, upgrades)}
    known[resumes] = await store.bought(resumes, "starter", "r@b.c")
    await store.act(known[resumes], "cancel")
    page = await store.page(late, "enterprise")

    await store.service.kill()
    began = time.monotonic()
    await store.act(known[ends], "cancel", "expire")
    await store.act(known[upgrades], "to-starter", "to-enterprise")
    await store.act(known[resumes], "resume", "to-pro")
    bought_late = store.shop.buy(page, "late@b.c", "L")
    await store.shop.webhooks.idle()
    await asyncio.sleep(0.6 - (time.monotonic() - began))
    lost = [it for it in store.shop.webhooks.attempted if not it.succeeded]
    assert all(it.answers == [None] * 4 for it in lost)
    assert len(lost) == 15
    await store.service.start()
    # Meanwhile deliveries come again, newer than what was lost.
    await store.act(known[upgrades], "to-starter")

    before = [await store.tier(user) for user in (ends, upgrades, resumes, late)]
    assert before == ["pro", "starter", "starter", "free"]
    shown = await store.reconcile(dry_run=True)
    assert [await store.tier(user) for user in (ends, upgrades, resumes, late)] == before
    assert not shown.applied
    done = await store.reconcile()
    assert (done.read, done.changed, done.applied) == (4, shown.changed, True)
    assert {(it.user_id, it.was, it.status, it.previous_tier, it.tier) for it in done.changed} == {
        (ends, "active", "expired", "pro", "free"),
        (resumes, "cancelled", "active", "starter", "pro"),
    }
    assert [await store.tier(user) for user in (ends, upgrades, resumes)] == [
        *("free", "starter", "pro"),
    ]
    # Whose the new one is, only a delivery says, or an operator.
    [unknown] = done.unassigned
    assert (unknown.id, unknown.tier, unknown.email) == (
        str(bought_late.id),
        "enterprise",
        "late@b.c",
    )
    assert str((await store.assign(bought_late, "late")).refused) == "'late' is not a user id"
    assert (await store.assign(bought_late, late)).tier == "enterprise"
    assert str((await store.assign(bought_late, ends)).refused) == f"the subscription is {late}'s"
    after = await store.reconcile()
    assert (after.read, after.changed, after.unassigned, after.applied) == (4, (), (), False)
    # What was dropped, sent again by hand, changes nothing.
    for number in [it.number for it in lost]:
        store.shop.webhooks.send_again(number)
    await store.shop.webhooks.idle()
    assert [await store.tier(user) for user in (ends, upgrades, resumes, late)] == [
        *("free", "starter", "pro", "enterprise"),
    ]


@pytest.mark.accept("8.6.outage")
async def test_a_delivery_that_was_recorded_and_not_answered_counts_once(
    store: Selling,
) -> None:
    """Billing dies behind the commit; the store tries again, and is told that it is known."""
    user = a_user()
    page = await store.page(user)
    (store.directory / "crash").write_text("billing.webhook_recorded")
    store.shop.buy(page, "a@b.c", "A")

    async def died() -> bool:
        return not store.service.running

    await eventually(died, "billing to die")
    await store.service.start()
    await store.shop.webhooks.idle()
    for it in list(store.shop.webhooks.attempted)[:3]:
        store.shop.webhooks.send_again(it.number)
    await store.shop.webhooks.idle()
    assert await store.tier(user) == "pro"
    facts = await store.stated(user)
    hashes = [fact.body_hash for fact in facts if isinstance(fact, WebhookProcessed)]
    assert len(hashes) == len(set(hashes)) == 2
    assert [type(fact) for fact in facts].count(TierChanged) == 1


@pytest.mark.accept("8.6.order")
async def test_subscriptions_and_the_memory_of_deliveries_survive_a_restore(
    store: Selling,
) -> None:
    user = a_user()
    sold = await store.bought(user)
    await store.act(sold, "cancel")
    tables = ("accounts", "subscriptions", "webhook_deliveries")
    # What is due is settled, and not stated.
    ordered = [f"SELECT to_jsonb(t) - 'due_at_ms' AS row FROM {it} t ORDER BY 1" for it in tables]
    await store.until_scalar("SELECT count(*) FROM outbox", 0, "the facts to be published")
    before = [await store.rows(query) for query in ordered]
    await store.service.stop()
    # As a backup from before all this would have it.
    await store.execute(f"TRUNCATE {', '.join(tables)}, events, outbox")
    await store.execute("DELETE FROM checkpoints WHERE name = 'billing.own-facts'")
    await store.service.start()
    assert [await store.rows(query) for query in ordered] == before


@pytest.mark.accept("8.6.outage")
async def test_reading_back_goes_through_all_pages(store: Selling) -> None:
    user = a_user()
    await store.bought(user)
    before = await store.reconcile()
    page = await store.page(user)
    for number in range(205):
        store.shop.store.buy(page, f"{number}@b.c", "N")
    again = store.shop.store.buy(page, "a@b.c", "A")
    over = store.shop.store.buy(page, "over@b.c", "O")
    store.shop.store.change(over, ACTIONS["expire"][1])
    shown = {it.id: it for it in (await store.reconcile(dry_run=True)).unassigned}
    assert user in shown[str(again.id)].users
    assert str(over.id) not in shown
    for one in (again, over):
        del store.shop.store._held.subscriptions[one.id]  # pyright: ignore[reportPrivateUsage]
    reply = await store.reconcile(dry_run=True)
    assert reply.read == before.read + 205
    assert len(reply.unassigned) == 200
    assert reply.left_out == len(before.unassigned) + 205 - 200
    assert (reply.changed, reply.missing, reply.applied) == ((), (), False)
    # What cannot be read hides nothing else.
    store.shop.store.subscriptions[100].status = "unheard of"
    reply = await store.reconcile(dry_run=True)
    assert (reply.unreadable, reply.read) == (1, before.read + 204)
    store.shop.store.subscriptions[100].status = "active"
    rename = "UPDATE subscriptions SET subscription_id = :to WHERE user_id = :user"
    [row] = await store.rows("SELECT * FROM subscriptions WHERE user_id = :user", user=user)
    await store.execute(rename, user=user, to="1")
    assert (await store.reconcile()).missing == ("1",)
    await store.execute(rename, user=user, to=row["subscription_id"])
    # What a real store would not give to anybody, and what is no tier.
    real = Provider(
        client=LemonSqueezy(store.url, API_KEY, "1"),
        variants={str(variant.id): tier for tier, variant in VARIANTS.items()},
        webhook_secrets=(b"",),
        checkout_keys={},
    )
    request = ReconcileSubscriptionsRequest(operator="olivia", dry_run=True)
    for provider in (real, replace(real, variants={}, test_mode=True)):
        reply = await Reconciliation(store.database, TIERS, provider).reconcile(request)
        assert reply.unassigned == ()
    assert set(reply.unknown_variants) <= {str(it.id) for it in VARIANTS.values()}
    assert reply.unknown_variants
    await real.client.close()


@pytest.mark.accept("8.6.order")
async def test_a_delivery_is_remembered_for_ninety_days(store: Selling) -> None:
    now = int(time.time() * 1000)
    for name, ago_ms in (("old", REMEMBERED_MS + 60_000), ("known", REMEMBERED_MS - 60_000)):
        await store.execute(
            "INSERT INTO webhook_deliveries (body_hash, received_at_ms) VALUES (:name, :at_ms)",
            name=name,
            at_ms=now - ago_ms,
        )
    await Endings(store.database, TIERS)._forget()  # pyright: ignore[reportPrivateUsage]
    left = await store.rows("SELECT body_hash FROM webhook_deliveries WHERE length(body_hash) < 9")
    assert [row["body_hash"] for row in left] == ["known"]
    assert REMEMBERED_MS == 90 * 24 * 3_600_000
