"""What dead gateways leave: found, and finished while everybody else goes on."""

import asyncio
import time

import pytest
from webhost_contracts.entitlements import Entitlements
from webhost_kit.clock import now_ms
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import Unavailable

from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.support.deadline import eventually

TIER = Entitlements(
    requests=None, concurrency=None, requests_per_minute=1, telemetry_days=1, log_days=1
)
USERS = 1_000
TTL_S = 2.0


def leave_open(here: Ledger, calls: int, *, dead: bool = False) -> None:
    """A gateway that died with this many open calls, of USERS users."""
    here.rows(
        "INSERT INTO leases VALUES ('gw_dead', now() - interval '1 minute', 'another run', %s)",
        dead,
    )
    here.rows(
        "INSERT INTO invocations SELECT 'inv_' || lpad(n::text, 26, '0'), 'usr_' || n %% %s,"
        " 'agt', 'dep', 'cloudflare', 't', '2026-11', %s, 'gw_dead' FROM generate_series(1, %s) n",
        USERS,
        now_ms(),
        calls,
    )
    here.rows(
        "INSERT INTO quotas SELECT user_id, period_key, count(*), count(*) FROM invocations"
        " GROUP BY user_id, period_key"
    )
    here.rows("ANALYZE")


def still_open(here: Ledger) -> int:
    [(number,)] = here.rows(
        "SELECT count(*) FROM invocations WHERE gateway_id = 'gw_dead' AND finished_at_ms IS NULL"
    )
    return number


def facts(here: Ledger) -> tuple[int, int]:
    """How many facts wait, and of how many calls."""
    [row] = here.rows(
        "SELECT count(*), count(DISTINCT fact->>'aggregateId') FROM usage_outbox,"
        " jsonb_array_elements(('[' || body || ']')::jsonb) AS fact"
        " WHERE fact->'data'->>'outcome' = 'unknown'"
    )
    return (row[0], row[1])


async def until_ended(here: Ledger, *, seconds: float) -> None:
    async def ended() -> bool:
        return here.rows("SELECT 1 FROM leases WHERE gateway_id = 'gw_dead'") == []

    await eventually(ended, "the dead gateway's lease to go", seconds=seconds)


@pytest.mark.accept("A4")
@pytest.mark.parametrize(
    "calls", [3_000, pytest.param(50_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
async def test_a_dead_gateways_calls_hold_up_nobody(database_url: str, calls: int) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=TTL_S, reaping=True) as here:
        name = here.lease.gateway_id
        leave_open(here, calls)
        worst_s, admitted = 0.0, 0
        reaped = asyncio.create_task(until_ended(here, seconds=240))
        while not reaped.done():
            began = time.monotonic()
            await here.admission.admit(an_invocation(f"usr_{admitted % USERS}"), TIER)
            worst_s = max(worst_s, time.monotonic() - began)
            admitted += 1
            await asyncio.sleep(0.005)
        await reaped
        print(f"{calls} open calls: {admitted} admitted meanwhile, the slowest in {worst_s:.3f} s")
        assert worst_s < 1
        assert admitted > 50
        assert here.lease.gateway_id == name
        assert still_open(here) == 0
        assert facts(here) == (calls, calls)
        [(requests, in_flight)] = here.rows("SELECT sum(requests), sum(in_flight) FROM quotas")
        assert (requests, in_flight) == (calls + admitted, admitted)


@pytest.mark.accept("A4")
async def test_another_reaper_goes_on_where_one_died(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    calls = 3_000
    async with ledger(database_url) as dying, ledger(database_url) as other:
        leave_open(dying, calls, dead=True)
        reaping = asyncio.create_task(dying.reaper.reap())

        async def begun() -> bool:
            return still_open(dying) < calls

        await eventually(begun, "a batch to be finished")
        reaping.cancel()
        await asyncio.gather(reaping, return_exceptions=True)
        assert still_open(dying) > 0
        assert len(other.rows("SELECT 1 FROM leases WHERE gateway_id = 'gw_dead' AND dead")) == 1
        await other.reaper.reap()
        await until_ended(other, seconds=1)
        assert facts(other) == (calls, calls)


@pytest.mark.accept("A4")
async def test_an_expired_lease_is_only_judged_after_an_unbroken_lease_time(
    database_url: str,
) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=TTL_S) as here:
        leave_open(here, 1)
        # At once, and as of the last time that the database answered before a break.
        await here.reaper.reap()
        assert still_open(here) == 1

        async def may_judge() -> bool:
            return here.lease.judges_until is not None

        await eventually(may_judge, "one lease time", seconds=15)
        # This process stands still, and goes on with its reaper rather than with its lease.
        time.sleep(TTL_S)  # noqa: ASYNC251
        await here.reaper.reap()
        assert still_open(here) == 1

        async def reaped() -> bool:
            await here.reaper.reap()
            return still_open(here) == 0

        began = time.monotonic()
        await eventually(reaped, "another lease time", seconds=15)
        assert time.monotonic() - began >= TTL_S / 2


@pytest.mark.accept("A4")
async def test_a_lease_that_was_marked_neither_admits_nor_renews(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=TTL_S) as here:
        marked = here.lease.gateway_id
        here.rows("UPDATE leases SET dead = true")
        with pytest.raises(Unavailable):
            await here.admission.admit(an_invocation("usr_1"), TIER)

        async def renamed() -> bool:
            return here.lease.gateway_id != marked and here.lease.check() is None

        await eventually(renamed, "a new lease")
        await here.admission.admit(an_invocation("usr_1"), TIER)
        ends = here.rows("SELECT expires_at FROM leases WHERE gateway_id = %s", marked)
        await asyncio.sleep(TTL_S / 2)
        assert here.rows("SELECT expires_at FROM leases WHERE gateway_id = %s", marked) == ends
