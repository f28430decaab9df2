"""Several gateways' statements against the same rows, at full speed."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

from webhost_contracts.entitlements import Entitlements
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded

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


async def test_concurrent_writers_take_exactly_what_there_is(database_url: str) -> None:
    """No deadlock, no request too many, none too few, never more at once than allowed."""
    upgrade(database_url, "webhost_gateway")
    admitted: Counter[str] = Counter()
    open_now: Counter[str] = Counter()
    random.seed(1)

    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(ledger(database_url)) for _ in range(GATEWAYS)]

        async def caller(number: int) -> None:
            gateway = gateways[number % GATEWAYS]
            done = 0
            while done < CALLS:
                invocation = an_invocation(f"usr_{random.randrange(USERS)}")
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
                await asyncio.sleep(random.random() * 0.002)
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
