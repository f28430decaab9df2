"""Parts of a limit that were reached are stated: once, with the usage that reached them."""

import secrets
from collections.abc import AsyncIterator, Sequence

import pytest
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import PeriodThresholdReached
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit.bus import rpc

from tests.integration.billing.conftest import PERIOD, Billing, call, telemetry
from tests.support import facts
from tests.support.deadline import eventually
from tests.support.harness import running
from tests.support.infra import Nats, Postgres

TIERS = """
[free]
requests = 100
tokens = 1000
computeMs = 10000
requestsPerMinute = 1
telemetryDays = 1
logDays = 1

[pro]
tokens = 4000
requestsPerMinute = 1
telemetryDays = 1
logDays = 1
"""


@pytest.fixture(scope="module")
async def billing(
    postgres_server: Postgres, nats_server: Nats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Billing]:
    """One for all tests here: each has users of its own."""
    directory = tmp_path_factory.mktemp("billing")
    tiers = directory / "tiers.toml"
    tiers.write_text(TIERS)
    dsn, url = postgres_server.create_database(), nats_server.new_account()
    async with running(Billing, dsn, url, directory=directory) as harness:
        harness.service.env["WEBHOST_TIERS_FILE"] = str(tiers)
        await harness.service.start()
        yield harness


@pytest.fixture
def users() -> tuple[str, str]:
    """Two users that no other test has used."""
    first, second = (ids.user_id("test", secrets.token_hex(8)) for _ in range(2))
    return first, second


Stated = list[tuple[int, str, int, int, str]]


async def stated(billing: Billing, user_id: str) -> Stated:
    """What EVENTS holds of a user's periods: version, limit, its value, percent, tier."""
    subject = subjects.event(user_id, "period", user_id)
    found: Stated = []
    for one in await facts.stored(billing.bus, subjects.EVENTS, subject):
        fact = wire.decode(bytes(one.data), PeriodThresholdReached)
        assert (one.aggregate_id, one.user_id) == (f"{user_id}.{PERIOD}", user_id)
        assert (fact.period_key, one.actor) == (PERIOD, "service:billing")
        found.append((one.version, fact.limit_type, fact.limit, fact.percent, fact.tier))
    return found


async def until_stated(billing: Billing, user_id: str, expected: Stated) -> None:
    async def there() -> bool:
        return len(await stated(billing, user_id)) >= len(expected)

    await eventually(there, "the thresholds to be stated")
    assert await stated(billing, user_id) == expected


async def put(billing: Billing, user_id: str, tier: str) -> None:
    request = SetTierRequest(user_id=user_id, tier=tier, operator="kim")
    reply = await rpc.call(billing.bus, subjects.RPC_SET_TIER, request, SetTierReply)
    assert reply == SetTierReply(tier=tier)


@pytest.mark.accept("8.thresholds")
async def test_what_is_reached_is_stated_once_whatever_comes_again(
    billing: Billing, users: tuple[str, str]
) -> None:
    alice, bob = users
    await billing.given_folded(telemetry(alice, 1, llm_tokens=499), call(bob, 1))
    await billing.given_folded(telemetry(alice, 2, llm_tokens=1))
    expected: Stated = [(1, "tokens", 1000, 50, "free")]
    await until_stated(billing, alice, expected)

    # Both at once, and the first of the next tier's at the same amount.
    await billing.given_folded(telemetry(alice, 3, llm_tokens=1_500))
    expected += [(2, "tokens", 1000, 80, "free"), (3, "tokens", 1000, 100, "free")]
    await until_stated(billing, alice, expected)
    await put(billing, alice, "pro")
    await billing.given_folded(telemetry(alice, 3, llm_tokens=9_999), call(alice, 3))
    expected += [(4, "tokens", 4000, 50, "pro")]
    await until_stated(billing, alice, expected)

    # Down again: what was stated of that limit is stated no more.
    await put(billing, alice, "free")
    await billing.given_folded(telemetry(alice, 4), call(alice, 1), call(alice, 2))
    assert (await billing.rebuild())[-1].swapped
    await billing.service.kill()
    await billing.service.start()
    await billing.given_folded(telemetry(alice, 5), telemetry(bob, 1, llm_tokens=500))
    await until_stated(billing, bob, [(1, "tokens", 1000, 50, "free")])
    assert await stated(billing, alice) == expected


@pytest.mark.accept("8.thresholds")
async def test_a_batch_that_ends_anywhere_states_the_same(
    billing: Billing, users: tuple[str, str]
) -> None:
    """A call's wall time reaches the limit, and its Worker's report takes that back."""
    alice, bob = users
    both = [call(alice, 1, wall_ms=8_000), telemetry(alice, 1, compute_ms=2_000)]
    await billing.given_usage(*both)
    for one in (call(bob, 1, wall_ms=8_000), telemetry(bob, 1, compute_ms=2_000)):
        await billing.given_folded(one)
    for user in (alice, bob):
        assert (await billing.usage(user)).usage.compute_ms == 2_000
        expected: Stated = [
            (1, "computeMs", 10_000, 50, "free"),
            (2, "computeMs", 10_000, 80, "free"),
        ]
        await until_stated(billing, user, expected)


@pytest.mark.accept("8.thresholds")
@pytest.mark.accept("A1")
@pytest.mark.long
async def test_what_was_stated_before_a_restore_is_not_stated_again(
    billing: Billing, users: tuple[str, str]
) -> None:
    alice, _ = users
    await billing.given_folded(telemetry(alice, 1, llm_tokens=800))
    expected: Stated = [(1, "tokens", 1000, 50, "free"), (2, "tokens", 1000, 80, "free")]
    await until_stated(billing, alice, expected)
    await billing.service.kill()
    # As if restored to before all of it: neither its facts nor what was folded are there.
    for table in ("events", "periods", "outbox", "checkpoints", *_FOLDED):
        await billing.execute(f"DELETE FROM {table}")
    await billing.service.start()
    await billing.given_folded(telemetry(alice, 2, llm_tokens=200))
    expected += [(3, "tokens", 1000, 100, "free")]
    await until_stated(billing, alice, expected)
    assert (await billing.usage(alice)).usage.llm_tokens == 1_000


_FOLDED: Sequence[str] = ("invocations", "usage_events", "billing_usage", "totals_due")
