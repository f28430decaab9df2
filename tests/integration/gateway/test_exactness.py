"""What admission lets through: several gateways on the same rows at full speed, and its edges."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

import msgspec
import pytest
from webhost_contracts.entitlements import Entitlements
from webhost_gateway.ledger.admission import MAX_WAITING
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded, Unavailable

from tests.integration.gateway.ledger import an_invocation, ledger

GATEWAYS = 3
USERS = 8
CALLERS = 60
CALLS = 20
REQUESTS = 97
CONCURRENCY = 4

TIER = Entitlements(
    requests=REQUESTS,
    concurrency=CONCURRENCY,
    requests_per_minute=1,
    telemetry_days=1,
    log_days=1,
)


async def test_concurrent_writers_take_exactly_what_there_is(
    database_url: str, chance: random.Random
) -> None:
    """No deadlock, no request too many, none too few, never more at once than allowed."""
    upgrade(database_url, "webhost_gateway")
    admitted: Counter[str] = Counter()
    open_now: Counter[str] = Counter()

    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(ledger(database_url)) for _ in range(GATEWAYS)]

        async def caller(number: int) -> None:
            gateway = gateways[number % GATEWAYS]
            done = 0
            while done < CALLS:
                invocation = an_invocation(f"usr_{chance.randrange(USERS)}")
                try:
                    await gateway.admission.admit(invocation, TIER)
                except LimitExceeded as refused:
                    done += refused.details["limitType"] == "requests"
                    await asyncio.sleep(0)
                    continue
                done += 1
                admitted[invocation.user_id] += 1
                open_now[invocation.user_id] += 1
                assert open_now[invocation.user_id] <= CONCURRENCY
                await asyncio.sleep(chance.random() * 0.002)
                open_now[invocation.user_id] -= 1
                gateway.record(invocation)

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller(number) for number in range(CALLERS)))
            for gateway in gateways:
                await gateway.outcomes.close()
        assert dict(admitted) == {f"usr_{number}": REQUESTS for number in range(USERS)}
        quotas = gateways[0].rows("SELECT requests, in_flight FROM quotas")
        assert quotas == [(REQUESTS, 0)] * USERS
        facts = gateways[0].rows(
            "SELECT count(*), count(DISTINCT fact->>'eventId') FROM usage_outbox,"
            " jsonb_array_elements(('[' || body || ']')::jsonb) AS fact"
        )
        assert facts == [(REQUESTS * USERS, REQUESTS * USERS)]


async def test_callers_within_the_limit_are_never_refused(
    database_url: str, chance: random.Random
) -> None:
    """As many callers as the limit, one call after the other, none yields its place to another."""
    upgrade(database_url, "webhost_gateway")
    unlimited = msgspec.structs.replace(TIER, requests=None)
    async with ledger(database_url) as here:

        async def caller() -> None:
            for _ in range(500):
                invocation = an_invocation("usr_1")
                await here.admission.admit(invocation, unlimited)
                await asyncio.sleep(chance.random() * 0.004)
                here.record(invocation)

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


async def test_a_call_of_the_period_before_takes_its_place_until_it_ends(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    one_at_once = msgspec.structs.replace(TIER, concurrency=1)
    async with ledger(database_url) as here:
        before = msgspec.structs.replace(an_invocation("usr_1"), period_key="2026-11")
        now = msgspec.structs.replace(an_invocation("usr_1"), period_key="2026-12")
        await here.admission.admit(before, one_at_once)
        with pytest.raises(LimitExceeded):
            await here.admission.admit(now, one_at_once)
        here.record(before)
        await here.admission.admit(now, one_at_once)


async def test_an_expired_lease_admits_nothing(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=60) as here:
        here.rows("UPDATE leases SET expires_at = now() - interval '1 second'")
        with pytest.raises(Unavailable):
            await here.admission.admit(an_invocation("usr_1"), TIER)
        assert here.rows("SELECT 1 FROM invocations") == []


async def test_what_waits_for_admission_is_bounded(database_url: str) -> None:
    """Of 10,000 calls at once, those beyond the bound are refused at once."""
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        calls = [
            asyncio.create_task(here.admission.admit(an_invocation("usr_1"), TIER))
            for _ in range(10_000)
        ]
        await asyncio.sleep(0)
        refused = [call for call in calls if call.done()]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert {type(call.exception()) for call in refused} == {Unavailable}
        assert len(refused) == len(calls) - MAX_WAITING
