"""Several gateways' statements against the same rows, at full speed."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

from webhost_contracts import ids
from webhost_contracts.entitlements import Entitlements
from webhost_gateway.ledger.admission import Admission
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.ledger.records import Invocation, Outcome
from webhost_gateway.ledger.statements import Statements
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded
from webhost_kit.eventsourcing.store import new_id

from tests.integration.kit.conftest import in_background
from tests.support.deadline import eventually

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
        gateways: list[tuple[Admission, Outcomes]] = []
        for _ in range(GATEWAYS):
            database = Database(database_url)
            stack.push_async_callback(database.close)
            admitting, recording = (Statements(database_url, name) for name in "ab")
            stack.push_async_callback(admitting.close)
            stack.push_async_callback(recording.close)
            lease = Lease(database, ttl_s=8, before_taking=nothing)
            outcomes = Outcomes(recording, lease)
            admission = Admission(admitting, lease, outcomes)
            await stack.enter_async_context(
                in_background(lease.run(), outcomes.run(), admission.run())
            )
            await held(lease)
            gateways.append((admission, outcomes))

        async def caller(number: int) -> None:
            admission, outcomes = gateways[number % GATEWAYS]
            done = 0
            while done < CALLS:
                invocation = an_invocation(f"usr_{random.randrange(USERS)}")
                try:
                    await admission.admit(invocation, TIER)
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
                outcomes.record(
                    invocation,
                    Outcome(outcome="succeeded", wall_ms=1),
                    now_ms(),
                    request_id=None,
                    traceparent=None,
                )

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller(number) for number in range(CALLERS)))
            for _, outcomes in gateways:
                await outcomes.close()
        assert dict(admitted) == {f"usr_{number}": REQUESTS for number in range(USERS)}
        async with database.transaction() as connection:
            quotas = await connection.exec_driver_sql("SELECT requests, in_flight FROM quotas")
            assert list(quotas) == [(REQUESTS, 0)] * USERS
            facts = await connection.exec_driver_sql(
                "SELECT count(*), count(DISTINCT fact->>'eventId') FROM usage_outbox,"
                " jsonb_array_elements(('[' || body || ']')::jsonb) AS fact"
            )
            assert list(facts) == [(REQUESTS * USERS, REQUESTS * USERS)]


async def nothing() -> None:
    pass


async def held(lease: Lease) -> None:
    async def is_held() -> bool:
        return lease.check() is None

    await eventually(is_held, "the lease")


def an_invocation(user_id: str) -> Invocation:
    at_ms = now_ms()
    return Invocation(
        id=new_id(ids.INVOCATION, at_ms),
        user_id=user_id,
        agent_id="agt_1",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        trace_id="t",
        period_key="2026-11",
        admitted_at_ms=at_ms,
    )
