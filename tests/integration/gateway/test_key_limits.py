"""The limit of an API key is exact: at full speed, across gateways, and when one dies."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest
from webhost_contracts import wire
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import InvocationFinished
from webhost_gateway.ledger.retention import remove_key_quotas
from webhost_gateway.model import Invocation
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded

from tests.integration.gateway.harness import Harness
from tests.integration.gateway.keys import a_key
from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually

TIER = Entitlements(requests=97, concurrency=4, requests_per_minute=1, telemetry_days=1, log_days=1)
CALLERS = 64
LIMIT = 150


def of_key(invocation: Invocation, key_id: str) -> Invocation:
    return msgspec.structs.replace(invocation, key_id=key_id, key_period="2026-11-29")


def used(here: Ledger, key_id: str) -> int:
    [(requests,)] = here.rows("SELECT requests FROM key_quotas WHERE key_id = %s", key_id)
    return requests


@pytest.mark.accept("7.keys.exact")
async def test_a_key_limited_to_n_makes_exactly_n_calls(own_harness: Harness) -> None:
    """64 callers, two gateways, and one of them is killed among them."""
    harness = own_harness
    gateways = list(await asyncio.gather(*(harness.start(LEASE_TTL_S="2") for _ in range(2))))
    agent = await harness.agent()
    key = await a_key(harness, agent, limit=(LIMIT, "day"))
    warm = (await a_key(harness, agent)).caller
    for gateway in gateways:
        await harness.until_answers(gateway, warm)
    before = len(harness.worker.calls)
    answered = 0

    async def slow(call: Call) -> None:
        await asyncio.sleep(0.05)
        await echo(call)

    harness.worker.behaviour = slow

    async def caller(number: int) -> None:
        nonlocal answered
        gateway = gateways[number % 2]
        while True:
            try:
                status, body = await harness.invoke(gateway, key.caller)
            except (aiohttp.ClientError, ConnectionError):
                gateway = gateways[0]
                continue
            if status == 402:
                assert body["error"]["details"]["current"] == LIMIT
                return
            if status == 200:
                answered += 1
                if answered == LIMIT // 3:
                    await gateways[1].kill()
            else:
                assert status == 503, body

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    # A fact whose gateway died behind its publication is published again.
    calls: dict[str, InvocationFinished] = {}

    async def all_stated() -> bool:
        calls.update(
            (envelope.aggregate_id, fact)
            for envelope in await harness.envelopes(agent)
            if (fact := wire.decode(bytes(envelope.data), InvocationFinished)).key_id == key.id
        )
        return len(calls) >= LIMIT

    await eventually(all_stated, "every call to be stated", seconds=30)
    assert len(calls) == LIMIT
    outcomes = Counter(fact.outcome for fact in calls.values())
    assert outcomes["unknown"] > 0, "the kill met no call"
    # Of what the killed gateway had answered, it had not recorded all.
    assert outcomes["succeeded"] + outcomes["unknown"] == LIMIT >= answered
    assert LIMIT - outcomes["unknown"] <= len(harness.worker.calls) - before <= LIMIT
    rows = await harness.rows("SELECT requests FROM key_quotas WHERE key_id = :id", id=key.id)
    assert rows == [{"requests": LIMIT}]


@pytest.mark.accept("7.keys.exact")
async def test_keys_and_users_limits_are_exact_together(
    database_url: str, chance: random.Random
) -> None:
    """Three ledgers; keys whose limits are below the user's, one above it, and calls without one.

    Of the user's 97 requests no key takes more than its own, and none is lost to a key's refusal.
    """
    upgrade(database_url, "webhost_gateway")
    most = {"key_1": 10, "key_2": 23, "key_3": 500, "key_4": 0, None: None}
    admitted: Counter[str | None] = Counter()
    refusals: list[dict[str, Any]] = []

    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(ledger(database_url)) for _ in range(3)]

        async def caller(number: int) -> None:
            gateway, key_id = gateways[number % 3], list(most)[number % len(most)]
            while True:
                invocation = an_invocation("usr_1")
                if key_id is not None:
                    invocation = of_key(invocation, key_id)
                try:
                    await gateway.admission.admit(invocation, TIER, most[key_id])
                except LimitExceeded as refused:
                    if refused.details["limitType"] == "requests":
                        refusals.append(refused.details)
                        return
                    await asyncio.sleep(0)
                    continue
                admitted[key_id] += 1
                await asyncio.sleep(chance.random() * 0.002)
                gateway.record(invocation)

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller(number) for number in range(45)))
        for details in refusals:
            of = details.get("keyId")
            assert details["current"] == (most[of] if of else TIER.requests)
        here = gateways[0]
        assert admitted.total() == TIER.requests
        assert admitted["key_4"] == 0
        for key_id in ("key_1", "key_2", "key_3"):
            assert used(here, key_id) == admitted[key_id] <= (most[key_id] or 0)


@pytest.mark.accept("7.keys.limits")
async def test_a_call_that_was_not_made_is_given_back_to_both(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        calls = [of_key(an_invocation("usr_1"), "key_1") for _ in range(3)]
        for call in calls[:2]:
            await here.admission.admit(call, TIER, 2)
        with pytest.raises(LimitExceeded) as refused:
            await here.admission.admit(calls[2], TIER, 2)
        assert refused.value.details["keyId"] == "key_1"
        here.outcomes.release(calls[0])
        await here.outcomes.catch_up()
        assert (used(here, "key_1"), here.quota("usr_1")) == (1, (1, 1))
        await here.admission.admit(calls[2], TIER, 2)
        # A release of an admission that never happened takes nothing away.
        here.outcomes.release(of_key(an_invocation("usr_1"), "key_1"))
        await here.outcomes.catch_up()
        assert (used(here, "key_1"), here.quota("usr_1")) == (2, (2, 2))


@pytest.mark.accept("A9")
async def test_key_quotas_of_past_periods_are_removed(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    at_ms = 1_768_000_000_000  # 2026-01-09
    periods = ("2025-11", "2025-12", "2026-01", "2026-01-06", "2026-01-07", "2026-01-09")
    try:
        async with database.transaction() as connection:
            for period in periods:
                await connection.exec_driver_sql(
                    "INSERT INTO key_quotas VALUES ('k', %s, 1)", (period,)
                )
        assert await remove_key_quotas(database, at_ms) == 2
        async with database.transaction() as connection:
            left = await connection.exec_driver_sql("SELECT period_key FROM key_quotas")
            assert set(left.scalars()) == set(periods) - {"2025-11", "2026-01-06"}
    finally:
        await database.close()
