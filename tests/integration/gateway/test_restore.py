"""A gateway under which its database, or the streams as well, are older all at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from webhost_contracts import ids, wire
from webhost_contracts.events import AgentDisabled, InvocationFinished
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_gateway.ledger.quotas import BATCH, raise_to_counted
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import INCARNATION, Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.store import new_id

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Harness
from tests.integration.gateway.ledger import ledger
from tests.integration.gateway.test_admission import at_once, until_quota
from tests.integration.gateway.test_outages import a_held_call
from tests.support.backup import RestorableNats, a_copy, running_restorable_nats
from tests.support.deadline import eventually
from tests.support.infra import Postgres

LEASED_HERE = f"SELECT count(*) FROM leases WHERE incarnation = ({INCARNATION})"


@pytest.mark.accept("A1")
async def test_a_restored_database_does_not_give_the_plan_again(
    own_harness: Harness, postgres_server: Postgres
) -> None:
    """The copy is seconds old, so that even the gateway's lease in it has not expired."""
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent("small")
    await harness.until_answers(gateway, agent)
    await harness.until_facts(agent, 1)
    with a_copy(postgres_server, harness.dsn) as put_back:
        await harness.until_answers(gateway, agent)
        answers = await at_once(harness, [gateway], agent, 30)
        assert answers == {"200": 18, "requests": 12}
        period = period_key(now_ms())
        totals = Totals(tokens=0, compute_ms=0, generation=1, sequence=1, requests=20)
        await harness.charge(agent, totals, period)

        put_back()
        before = await harness.scalar("SELECT requests FROM quotas")
        assert before == 1
        # Not one more: the first answer is that the plan is used up.
        body: Any = None
        status = 503

        async def answers() -> bool:
            nonlocal status, body
            status, body = await harness.invoke(gateway, agent)
            return status != 503

        await eventually(answers, "an answer")
        assert status == 402
        assert body["error"]["details"]["limitType"] == "requests"
        rows = await harness.rows("SELECT requests, in_flight FROM quotas")
        assert rows == [{"requests": 20, "in_flight": 0}]


async def test_calls_that_have_ended_hold_no_places_in_a_restored_database(
    own_harness: Harness, postgres_server: Postgres
) -> None:
    """Three calls are open in the copy; one of them is still under way when it is put back."""
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)
    await harness.until_facts(agent, 1)
    await harness.until_scalar("SELECT count(*) FROM usage_outbox", 0, "nothing to publish twice")
    under_way, *ended = [await a_held_call(harness, gateway, agent) for _ in range(3)]
    with a_copy(postgres_server, harness.dsn) as put_back:
        for held in ended:
            held.let_go.set()
            assert (await held.call)[0] == 200
        await harness.until_facts(agent, 3)
        put_back()
        await harness.until_scalar(LEASED_HERE, 1, "the lease to be renewed in the copy")
        await until_quota(harness, agent, 4, 1)
        under_way.let_go.set()
        assert (await under_way.call)[0] == 200
        await until_quota(harness, agent, 4, 0)
        assert await at_once(harness, [gateway], agent, 3) == {"200": 3}
        await harness.until_facts(agent, 9)
    stated: dict[str, list[str]] = {}
    for envelope in await harness.envelopes(agent):
        outcome = wire.decode(bytes(envelope.data), InvocationFinished).outcome
        stated.setdefault(envelope.aggregate_id, []).append(outcome)
    # The first fact about a call is the one that counts.
    assert Counter(map(tuple, stated.values())) == {
        ("succeeded",): 5,
        ("succeeded", "unknown"): 2,
    }


async def test_usage_in_a_restored_database_is_stated_without_delay(
    own_harness: Harness, postgres_server: Postgres
) -> None:
    """Its rows have numbers that the gateway has published before."""
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    await harness.until_facts(agent, 1)
    with a_copy(postgres_server, harness.dsn) as put_back:
        for number in range(2, 7):
            await harness.until_answers(gateway, agent)
            await harness.until_facts(agent, number)
        put_back()
        await harness.until_answers(gateway, agent)
        await harness.until_facts(agent, 7)


@pytest.mark.accept("A4")
async def test_nobody_is_judged_by_a_lease_in_a_restored_database(
    database_url: str, postgres_server: Postgres
) -> None:
    """The other gateway's lease has expired in the copy, and it had no time to renew it."""
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url, ttl_s=4) as here:
        before = here.lease.incarnation

        async def may_judge() -> bool:
            return here.lease.judges_until is not None

        async def restored() -> bool:
            await reap()
            return here.lease.incarnation != before

        async def reap() -> None:
            with suppress(Unavailable):
                await here.reaper.reap()

        here.rows("INSERT INTO leases VALUES ('gw_other', now(), 'of before')")
        with a_copy(postgres_server, database_url) as put_back:
            here.rows("DELETE FROM leases WHERE gateway_id = 'gw_other'")
            await eventually(may_judge, "one lease time")
            put_back()
            await eventually(restored, "the lease to be renewed")
            await reap()
            other = "SELECT dead FROM leases WHERE gateway_id = 'gw_other'"
            assert here.rows(other) == [(False,)]

            async def judged() -> bool:
                await reap()
                return here.rows(other) == []

            await eventually(judged, "the other to be found dead")


@pytest.fixture
def nats() -> Iterator[RestorableNats]:
    with running_restorable_nats() as nats:
        yield nats


@pytest.mark.accept("A1")
async def test_what_was_lost_in_a_restore_of_both_leads_nowhere(
    database_url: str, nats: RestorableNats, postgres_server: Postgres, tmp_path: Path
) -> None:
    async with running_harness(database_url, nats.url, tmp_path) as harness:
        gateway = await harness.start()
        agent = await harness.agent()
        await harness.until_answers(gateway, agent)
        with a_copy(postgres_server, harness.dsn) as put_back:
            await nats.back_up(harness.bus)
            versions = deepcopy(agent.versions)

            # The lost future: the agent moves on and is disabled, another one is made.
            first, lost = agent.deployment_id, new_id(ids.DEPLOYMENT, now_ms())
            await harness.deploy(agent, lost)
            await harness.point(agent, lost)
            await harness.tell(agent, AgentDisabled())
            await harness.until_answers(gateway, agent, 403)
            young = await harness.agent()
            await harness.until_answers(gateway, young)

            await nats.restore(harness.bus)
            put_back()
            agent.versions, agent.deployment_id = versions, first

            async def answers_as_then() -> bool:
                """Never from a table that is empty, or half of each time."""
                status, _ = await harness.invoke(gateway, agent)
                assert status in (200, 403, 503)
                if status == 200:
                    assert harness.worker.calls[-1].path.split("/")[2] == first
                return status == 200

            await eventually(answers_as_then, "the agent as it was then", seconds=20)
            status, _ = await harness.invoke(gateway, young)
            assert status == 404
            # What is stated now has the versions of what was lost.
            now = new_id(ids.DEPLOYMENT, now_ms())
            await harness.deploy(agent, now)
            await harness.point(agent, now)

            async def answers_as_now() -> bool:
                assert (await harness.invoke(gateway, agent))[0] == 200
                return harness.worker.calls[-1].path.split("/")[2] == now

            await eventually(answers_as_now, "the pointer of now")


async def test_quotas_are_only_ever_raised(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    period = period_key(now_ms())
    counted = [(f"usr_{number:06}", number) for number in range(1, 2 * BATCH)]

    async def raised() -> dict[str, int]:
        await raise_to_counted(database, lambda asked: counted if asked == period else [])
        async with database.transaction() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT user_id, requests FROM quotas WHERE period_key = %s", (period,)
            )
            return {row.user_id: row.requests for row in rows}

    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO quotas VALUES ('usr_000001', %(p)s, 7), ('usr_000009', %(p)s, 7),"
            " ('usr_000009', '2000-01', 1)",
            {"p": period},
        )
    expected = dict(counted) | {"usr_000001": 7, "usr_000009": 9}
    assert await raised() == expected
    assert await raised() == expected
    await database.close()


async def test_no_lease_is_taken_before_the_totals_are_known(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    loaded = False
    refused = 0

    async def before_taking() -> None:
        nonlocal refused
        try:
            await raise_to_counted(database, lambda _: [] if loaded else None)
        except Unavailable:
            refused += 1
            raise

    async def some_refused() -> bool:
        nonlocal loaded
        if refused:
            assert await leases() == 0
            loaded = True
        return bool(refused)

    async def leases() -> int:
        async with database.transaction() as connection:
            result = await connection.exec_driver_sql("SELECT count(*) FROM leases")
            return int(result.scalar_one())

    watching = asyncio.create_task(eventually(some_refused, "the lease to wait"))
    async with ledger(database_url, ttl_s=2, before_taking=before_taking):
        await watching
        assert await leases() == 1
    await database.close()
