"""What dead gateways leave: found, and finished while everybody else goes on."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from webhost_contracts.entitlements import Entitlements
from webhost_gateway.ledger.admission import WAIT_S, Admission
from webhost_gateway.ledger.admission_sql import ADMIT_ONE
from webhost_kit.clock import now_ms
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.statements import Statements
from webhost_kit.errors import LimitExceeded, Unavailable

from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.support.infra import Postgres

TIER = Entitlements(
    requests=None, concurrency=None, requests_per_minute=1, telemetry_days=1, log_days=1
)
SPENT = Entitlements(
    requests=1, concurrency=None, requests_per_minute=1, telemetry_days=1, log_days=1
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


def open_calls(here: Ledger) -> list[str]:
    return [row[0] for row in here.rows("SELECT id FROM invocations WHERE finished_at_ms IS NULL")]


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
        # At WAIT_S an admission is refused; those that are let through are far from it.
        assert worst_s < WAIT_S / 2
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


@pytest.mark.accept("A4")
async def test_what_is_recorded_while_a_lease_is_taken_is_published_by_whoever_is_left(
    database_url: str,
) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=TTL_S) as other:
        with psycopg.connect(database_url, autocommit=True) as gate:
            async with ledger(database_url, ttl_s=TTL_S) as here:
                call = an_invocation("usr_1")
                await here.admission.admit(call, TIER)
                gate.execute("SELECT pg_advisory_lock(1)")
                gate.execute(WAIT_AT_GATE)
                here.rows(
                    "UPDATE leases SET dead = true WHERE gateway_id = %s", here.lease.gateway_id
                )
                here.lease.renew_soon()

                async def taking() -> bool:
                    return here.rows(AT_GATE) != []

                await eventually(taking, "a new lease to be taken")
                here.record(call)
                await here.outcomes.catch_up()
            # It has ended without its new lease.
            gate.execute("DROP TRIGGER gate ON leases")

        async def adopted() -> bool:
            await other.reaper.reap()
            found = other.rows("SELECT gateway_id FROM usage_outbox")
            return found == [(other.lease.gateway_id,)]

        await eventually(adopted, "the fact to be adopted")


AT_GATE = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
WAIT_AT_GATE = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
CREATE TRIGGER gate BEFORE INSERT ON leases FOR EACH ROW EXECUTE FUNCTION wait()
"""


class Late(Statements):
    """Its server has executed an admission that it answers later."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "gateway admitting late")
        self.answers = asyncio.Event()

    async def execute(self, *steps: tuple[str, Mapping[str, Any]]) -> list[TupleRow]:
        rows = await super().execute(*steps)
        if steps[0][0] == ADMIT_ONE:
            await self.answers.wait()
        return rows


async def test_of_its_own_calls_a_gateway_finishes_those_that_it_does_not_know(
    database_url: str,
) -> None:
    """There are many, as in a copy of a busy moment; a call between them is under way."""
    upgrade(database_url, "webhost_gateway")
    calls = 3_500
    async with ledger(database_url) as here:
        leave_open(here, calls)
        here.rows("UPDATE invocations SET gateway_id = %s", here.lease.gateway_id)
        under_way = an_invocation("usr_500")
        await here.admission.admit(under_way, TIER)
        async with asyncio.timeout(30):
            await here.reaper.reap()
        assert open_calls(here) == [under_way.id]
        assert facts(here) == (calls, calls)
        [(in_flight,)] = here.rows("SELECT sum(in_flight) FROM quotas")
        assert in_flight == 1


async def test_a_call_whose_admission_is_not_answered_yet_is_under_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_gateway.ledger.admission.WAIT_S", 30)
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        admitting = Late(database_url)
        admission = Admission(admitting, here.lease, here.outcomes)
        call = an_invocation("usr_1")
        async with in_background(admission.run()):
            admitted = asyncio.create_task(admission.admit(call, TIER))

            async def on_record() -> bool:
                return open_calls(here) == [call.id]

            await eventually(on_record, "the call to be on record")
            assert not admitted.done()
            await here.reaper.reap()
            assert open_calls(here) == [call.id]
            admitting.answers.set()
            await admitted
        await admitting.close()


@pytest.mark.accept("A9")
async def test_a_call_is_under_way_until_its_outcome_is_on_record(
    postgres_server: Postgres, database_url: str
) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        before, call = an_invocation("usr_1"), an_invocation("usr_1")
        for each in (before, call):
            await here.admission.admit(each, TIER)
        here.record(before)
        await here.outcomes.catch_up()
        assert not here.outcomes.expected(before)
        with postgres_server.suspended(here.backend("recording")):
            here.record(call)
            await here.reaper.reap()
            assert open_calls(here) == [call.id]

        async def recorded() -> bool:
            return open_calls(here) == []

        await eventually(recorded, "the outcome to be recorded")
        await here.outcomes.catch_up()
        assert facts(here) == (0, 0)
        assert not here.outcomes.expected(call)
        refused = an_invocation("usr_1")
        with pytest.raises(LimitExceeded):
            await here.admission.admit(refused, SPENT)
        assert not here.outcomes.expected(refused)
