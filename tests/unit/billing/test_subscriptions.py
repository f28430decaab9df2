"""What subscriptions give, and that deliveries in any order end alike."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhost_billing.decisions import Account, Refused, evolve, set_tier, settle
from webhost_billing.subscriptions import decisions, model, signatures
from webhost_billing.subscriptions.model import Subscription, due_at_ms, gives
from webhost_billing.subscriptions.resources import Delivery, Unusable, delivery_of
from webhost_contracts import ids
from webhost_contracts.events import Event, SubscriptionChanged, TierChanged, WebhookProcessed

from tests.support.facts import envelope

USER, OTHER = ids.user_id("test", "a"), ids.user_id("test", "b")
TIERS = ("free", "starter", "pro", "enterprise")
VARIANTS = {"1": "starter", "2": "pro", "3": "enterprise"}
KEYS = {"k2": b"2" * 32, "k1": b"1" * 32}
NOW = 1_800_000_000_000
HOUR = 3_600_000


def sub(status: Any = "active", **fields: Any) -> Subscription:
    return Subscription(
        **{"id": "9", "status": status, "tier": "pro", "updated_at_ms": 1, **fields}
    )


def after(account: Account, facts: Sequence[Event]) -> Account:
    for fact in facts:
        stated = envelope(USER, USER, fact, version=account.version + 1)
        account = evolve(account, stated, fact)
    return account


def body(
    event: str = "subscription_updated",
    *,
    custom: Any = None,
    data_id: Any = "9",
    **attributes: Any,
) -> bytes:
    """A delivery as the provider sends it."""
    said = {
        "store_id": 1,
        "status": "active",
        "variant_id": 2,
        "customer_id": 7,
        "updated_at": "2027-01-01T00:00:00.000000Z",
        "renews_at": None,
        "ends_at": None,
        "trial_ends_at": None,
        "pause": None,
        **attributes,
    }
    if custom is None:
        custom = signatures.custom_data(KEYS, USER)
    kind = "subscription-invoices" if "_payment_" in event else "subscriptions"
    meta = {"event_name": event, "custom_data": custom}
    return json.dumps(
        {"meta": meta, "data": {"type": kind, "id": data_id, "attributes": said}}
    ).encode()


def read(sent: bytes) -> Delivery:
    found = delivery_of(sent, VARIANTS, KEYS)
    assert found is not None
    return found


def processed(account: Account, sent: bytes, now_ms: int = NOW) -> list[Event]:
    return decisions.process(account, read(sent), decisions.body_hash(sent), TIERS, now_ms)


@pytest.mark.accept("8.6.gives")
@pytest.mark.parametrize(
    ("subscription", "given_tier"),
    [
        (sub("active"), "pro"),
        (sub("on_trial"), "pro"),
        (sub("past_due"), "pro"),
        (sub("unpaid"), None),
        (sub("expired"), None),
        (sub("expired", ends_at_ms=NOW + HOUR), None),
        (sub("paused"), None),
        (sub("paused", pause_mode="void"), None),
        (sub("paused", pause_mode="free"), "pro"),
        (sub("cancelled", ends_at_ms=NOW + 1), "pro"),
        (sub("cancelled", ends_at_ms=NOW), None),
        (sub("cancelled"), "pro"),
        (sub("active", tier=None), None),
        (Subscription(id="9"), None),
    ],
)
def test_what_a_subscription_gives(subscription: Subscription, given_tier: str | None) -> None:
    assert gives(subscription, NOW) == given_tier
    held = Account(USER, 1, subscriptions={"9": subscription})
    assert [fact.tier for fact in settle(held, TIERS, NOW)] == ([given_tier] if given_tier else [])


@pytest.mark.accept("8.6.gives")
def test_of_an_operators_tier_and_several_subscriptions_the_highest_holds() -> None:
    account = after(Account(USER), processed(Account(USER), body(variant_id=1)))
    account = after(account, processed(account, body(data_id="10", variant_id="2")))
    assert (account.tier, account.granted) == ("pro", "free")
    # An operator's tier that is lower is kept in mind, one that is higher holds.
    [kept] = set_tier(account, "starter", "kim", TIERS, NOW)
    assert kept == TierChanged(
        tier="pro", previous_tier="pro", source="operator:kim", granted="starter"
    )
    account = after(account, [kept])
    assert set_tier(account, "starter", "kim", TIERS, NOW) == []
    assert after(account, set_tier(account, "enterprise", "kim", TIERS, NOW)).tier == "enterprise"
    expired = body(data_id="10", status="expired", updated_at="2027-02-01T00:00:00.000000Z")
    account = after(account, processed(account, expired))
    assert account.tier == "starter"
    both = body(status="expired", updated_at="2027-02-01T00:00:00.000000Z")
    account = after(account, processed(account, both))
    assert (account.tier, account.granted) == ("starter", "starter")


@pytest.mark.accept("8.6.gives")
def test_a_tier_that_is_not_in_the_file_is_the_lowest() -> None:
    assert model.highest(("gold", "free"), TIERS) == "free"
    assert model.highest(("free", "pro", "starter"), TIERS) == "pro"


@pytest.mark.accept("8.6.ends")
def test_a_cancelled_subscription_ends_by_the_clock() -> None:
    cancelled = body(status="cancelled", ends_at="2027-02-01T00:00:00Z")
    account = after(Account(USER), processed(Account(USER), cancelled))
    end = due_at_ms(account.subscriptions["9"])
    assert (account.tier, end) == ("pro", 1_801_440_000_000)
    assert settle(account, TIERS, end - 1) == []
    [ended] = settle(account, TIERS, end)
    assert (ended.tier, ended.previous_tier, ended.source) == ("free", "pro", "subscription")
    assert settle(after(account, [ended]), TIERS, end) == []
    assert due_at_ms(sub("active", ends_at_ms=5)) is None


LIVES = (
    ("subscription_created", {"status": "on_trial"}),
    ("subscription_updated", {"status": "active"}),
    ("subscription_payment_failed", {"subscription_id": 9}),
    ("subscription_updated", {"status": "past_due", "variant_id": 3}),
    ("subscription_paused", {"status": "paused", "pause": {"mode": "void"}}),
    ("subscription_unpaused", {"status": "active", "variant_id": 1}),
    ("subscription_cancelled", {"status": "cancelled", "ends_at": "2099-01-01T00:00:00Z"}),
    ("subscription_expired", {"status": "expired", "ends_at": "2027-01-01T00:00:09Z"}),
)


def a_life(steps: Sequence[int], seconds: Sequence[int]) -> list[bytes]:
    """Deliveries about one subscription, at these seconds of a minute."""
    return [
        body(LIVES[step][0], updated_at=f"2027-01-01T00:00:{second:02}.000000Z", **LIVES[step][1])
        for step, second in zip(steps, seconds, strict=True)
    ]


def ended(sent: Sequence[bytes]) -> tuple[str, dict[str, Subscription]]:
    """The tier and the subscriptions after these deliveries, each taken once."""
    account, known = Account(USER), set[str]()
    for one in sent:
        if (digest := decisions.body_hash(one)) not in known:
            known.add(digest)
            account = after(account, processed(account, one))
    return account.tier, dict(account.subscriptions)


@pytest.mark.accept("8.6.order")
def test_every_order_of_a_life_ends_alike() -> None:
    """Every permutation of five deliveries, each doubled, with several of one second."""
    for steps, tier in (((0, 1, 2, 3, 6), "enterprise"), ((0, 1, 5, 6, 7), "free")):
        life = a_life(steps, (1, 2, 2, 3, 4))
        if tier == "enterprise":
            life[-1] = body(
                "subscription_cancelled",
                status="cancelled",
                variant_id=3,
                ends_at="2099-01-01T00:00:00Z",
                updated_at="2027-01-01T00:00:04.000000Z",
            )
        expected = ended(life)
        assert expected[0] == tier
        for order in itertools.permutations(life):
            assert ended([*order, *reversed(order)]) == expected


@pytest.mark.accept("8.6.order")
@given(data=st.data())
@settings(max_examples=200, database=None)
def test_any_deliveries_in_any_order_end_alike(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(0, len(LIVES) - 1), min_size=1, max_size=8))
    seconds = data.draw(st.lists(st.integers(0, 5), min_size=len(steps), max_size=len(steps)))
    life = a_life(steps, seconds)
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=4))
    assert ended(data.draw(st.permutations([*life, *repeats]))) == ended(life)


@pytest.mark.accept("8.6.outage")
def test_what_is_read_back_replaces_all_but_what_is_newer() -> None:
    account = Account(USER, subscriptions={"9": sub("active", updated_at_ms=10)}, tier="pro")

    def observed(status: Any, at_ms: int) -> list[Event]:
        found = sub(status, updated_at_ms=at_ms)
        return decisions.observe(account, found, "reconcile", TIERS, NOW, read_back=True)

    assert observed("expired", 9) == []
    assert observed("active", 10) == []
    changed, tier = observed("expired", 10)
    assert isinstance(changed, SubscriptionChanged)
    assert isinstance(tier, TierChanged)
    assert (changed.source, tier.tier) == ("reconcile", "free")


def test_a_payment_says_whose_a_subscription_is_and_nothing_else() -> None:
    sent = body("subscription_payment_success", subscription_id="12", data_id=77)
    [fact] = processed(Account(USER), sent)
    assert fact == WebhookProcessed(
        event_name="subscription_payment_success",
        subscription_id="12",
        body_hash=decisions.body_hash(sent),
    )
    account = after(Account(USER), [fact])
    assert (account.tier, account.subscriptions) == ("free", {"12": Subscription(id="12")})
    assert model.leading(account.subscriptions.values(), TIERS, NOW) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"meta": {"event_name": "subscription_updated"}}',
        body(status="broken"),
        body(updated_at="yesterday"),
        body(updated_at="0001-01-01T00:00:00+23:59"),
        body(updated_at=None),
        body(variant_id=[]),
        body(variant_id=""),
        body(data_id="a\x00b"),
        body(data_id="9" * 101),
        body(pause={"mode": "gone"}),
        body("subscription_payment_failed"),
        b"[" * 100_000,
    ],
)
def test_what_is_not_as_documented_is_unusable(sent: bytes) -> None:
    with pytest.raises(Unusable):
        delivery_of(sent, VARIANTS, KEYS)


@pytest.mark.parametrize("event", ["order_created", "license_key_created", "", "Subscription_X"])
def test_what_is_about_something_else_is_left_out(event: str) -> None:
    assert delivery_of(body(event), VARIANTS, KEYS) is None


def test_ids_are_numbers_or_text_and_times_have_zones() -> None:
    text, number = read(body(variant_id="2", customer_id="7")), read(body(data_id=9))
    assert text == number
    assert text.subscription is not None
    assert text.subscription.updated_at_ms == 1_798_761_600_000
    shifted = read(body(updated_at="2027-01-01T02:00:00+02:00")).subscription
    assert shifted == text.subscription
    unknown = read(body(variant_id=99)).subscription
    assert unknown is not None
    assert (unknown.tier, unknown.variant_id) == (None, "99")


@pytest.mark.accept("8.6.whose")
def test_a_user_is_believed_with_our_signature_alone() -> None:
    good = signatures.custom_data(KEYS, USER)
    assert read(body(custom=good)).user_id == USER
    assert read(body(custom=signatures.custom_data({"k1": KEYS["k1"]}, USER))).user_id == USER
    signature = good["user_signature"]
    for custom in (
        {},
        [],
        {"user_id": USER},
        {"user_id": OTHER, "user_signature": signature},
        {"user_id": USER, "user_signature": signature.upper()},
        {"user_id": USER, "user_signature": signature[:-1]},
        {"user_id": USER, "user_signature": signature.replace("k2", "k1")},
        {"user_id": USER, "user_signature": f"k3{signature[2:]}"},
        {"user_id": USER, "user_signature": "ü.ü"},
        {"user_id": USER, "user_signature": ["k2"]},
        {"user_id": 1, "user_signature": signature},
        signatures.custom_data({"k2": b"x" * 32}, USER),
    ):
        assert read(body(custom=custom)).user_id is None, custom


def forgeries(secret: bytes, sent: bytes, count: int) -> Iterator[tuple[bytes, str]]:
    """Bodies with signatures that are nearly right."""
    chosen = random.Random(8)
    good = signatures.delivery_signature(secret, sent)
    for number in range(count):
        place = chosen.randrange(len(good))
        flipped = format(int(good[place], 16) ^ (1 << chosen.randrange(4)), "x")
        byte = chosen.randrange(len(sent))
        changed = sent[:byte] + bytes([sent[byte] ^ (1 << chosen.randrange(8))]) + sent[byte + 1 :]
        yield from itertools.islice(
            (
                (sent, good[:place] + flipped + good[place + 1 :]),
                (changed, good),
                (sent, good[:place]),
                (sent, good + good[: place + 1]),
                (sent, good.upper()),
                (sent, f"v1={good}"),
                (sent, good[:place] + "é" + good[place + 1 :]),
                (sent, signatures.delivery_signature(secret + b"x", sent)),
                (sent, signatures.delivery_signature(b"%d" % number, sent)),
            ),
            number % 9,
            number % 9 + 1,
        )


@pytest.mark.accept("8.6.signed")
def test_of_ten_thousand_forged_signatures_none_is_believed() -> None:
    sent = body()
    old, new = b"an older secret", b"a newer secret"
    for secret in (old, new):
        assert signatures.is_delivery((new, old), sent, signatures.delivery_signature(secret, sent))
    assert not signatures.is_delivery((new,), sent, signatures.delivery_signature(old, sent))
    tried = list(forgeries(new, sent, 10_000))
    assert len(tried) == 10_000
    assert not [one for one in tried if signatures.is_delivery((new, old), *one)]


def test_a_tier_is_sold_as_its_first_variant() -> None:
    variants = {"11": "pro", "12": "pro", "13": "starter"}
    assert decisions.buyable(variants, "pro") == "11"
    with pytest.raises(Refused, match="For sale: pro, starter"):
        decisions.buyable(variants, "free")


def test_an_operator_assigns_to_users_alone() -> None:
    with pytest.raises(Refused):
        decisions.assign(Account("kim"), sub(), "kim", TIERS, NOW)
    facts = decisions.assign(Account(USER), sub(), "kim", TIERS, NOW)
    assert after(Account(USER), facts).tier == "pro"


def test_the_state_of_a_subscription_survives_its_fact() -> None:
    state = sub(
        "paused",
        variant_id="2",
        customer_id="7",
        renews_at_ms=3,
        ends_at_ms=4,
        trial_ends_at_ms=5,
        pause_mode="free",
    )
    assert model.with_change({}, model.changed(state, "webhook")) == {"9": state}
    assert set(msgspec.structs.asdict(state)) == {*Subscription.__struct_fields__}
    account = replace(Account(USER), subscriptions={"9": state})
    assert decisions.observe(account, state, "webhook", TIERS, NOW)[-1:] == settle(
        account, TIERS, NOW
    )


@pytest.mark.accept("8.6.order")
def test_of_two_states_of_one_second_the_more_final_one_holds() -> None:
    finality = ("on_trial", "active", "past_due", "paused", "unpaid", "cancelled", "expired")
    for earlier, later in itertools.combinations(finality, 2):
        for order in itertools.permutations((sub(earlier), sub(later))):
            account = Account(USER)
            for state in order:
                account = after(account, decisions.observe(account, state, "webhook", TIERS, NOW))
            assert account.subscriptions["9"].status == later, (earlier, later)


def test_a_delivery_of_the_test_mode_says_so_in_either_place() -> None:
    assert not read(body()).test_mode
    assert read(body(test_mode=True)).test_mode
    paid = body("subscription_payment_success", subscription_id="12", test_mode=True)
    assert read(paid).test_mode
    meta = json.loads(body())
    meta["meta"]["test_mode"] = True
    assert read(json.dumps(meta).encode()).test_mode


def test_what_gives_most_is_shown_before_what_is_newest() -> None:
    known = (sub("active", tier="enterprise"), sub("expired", id="10", updated_at_ms=2))
    assert model.leading(known, TIERS, NOW) == known[0]
