"""After a restore, billing's own facts make its accounts what they were."""

import psycopg
import pytest
from webhost_billing.projection import checkpoint_name
from webhost_contracts import maintenance, subjects
from webhost_contracts.maintenance import ProjectionRequest, ReplayReply
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus, connect

from tests.integration.billing.conftest import ALICE, BOB, PERIOD, Billing, call
from tests.integration.billing.test_usage import until_totals
from tests.support.deadline import eventually
from tests.support.service import service


async def put_on(bus: Bus, user_id: str, tier: str) -> None:
    request = SetTierRequest(user_id=user_id, tier=tier, operator="olivia")
    reply = await rpc.call(bus, subjects.RPC_SET_TIER, request, SetTierReply)
    assert reply.refused is None


def rows(dsn: str) -> list[tuple[object, ...]]:
    query = "SELECT a.*, e.version, e.event_id FROM accounts a JOIN events e"
    with psycopg.connect(dsn) as connection:
        found = connection.execute(f"{query} ON e.aggregate_id = a.user_id ORDER BY 1, e.version")
        return found.fetchall()


@pytest.mark.accept("A1")
async def test_accounts_are_folds_of_billings_own_facts(
    database_url: str, nats_account: str
) -> None:
    bus = await connect(nats_account, "test")
    async with service("webhost_billing", database_url, nats_account):
        await put_on(bus, ALICE, "pro")
        await put_on(bus, BOB, "pro")
        await put_on(bus, ALICE, "free")

        async def relayed() -> bool:
            return (await bus.js.stream_info(subjects.EVENTS)).state.messages == 3

        await eventually(relayed, "the facts on the stream")
    before = rows(database_url)
    with psycopg.connect(database_url) as connection:
        # As a backup from before all this would have it.
        connection.execute("TRUNCATE accounts, events, outbox")
        connection.execute("DELETE FROM checkpoints WHERE name = 'billing.own-facts'")
    async with service("webhost_billing", database_url, nats_account):
        assert rows(database_url) == before
        await put_on(bus, ALICE, "pro")
        assert sorted(row[-2] for row in rows(database_url)) == [1, 1, 2, 3]
    await bus.close()


@pytest.mark.accept("A1")
async def test_totals_go_on_when_usage_begins_again(billing: Billing) -> None:
    await billing.tell(call(ALICE, 1), call(ALICE, 2))
    before = await until_totals(billing, ALICE, 0, 200)
    partition = subjects.partition_of(ALICE)
    # What had not been put when the stream was lost, of somebody who makes no more calls.
    billing.execute(f"INSERT INTO totals_due VALUES ({partition}, '{BOB}', '{PERIOD}', 1, 1000)")
    info = await billing.bus.js.stream_info(subjects.USAGE)
    await billing.bus.js.delete_stream(subjects.USAGE)
    await billing.bus.js.add_stream(info.config)

    async def halted() -> bool:
        return not await billing.process.ready()

    await eventually(halted, "billing to halt", seconds=20)
    request = ProjectionRequest(projection=checkpoint_name(partition))
    subject = maintenance.subject("billing", maintenance.REPLAY)
    assert (await rpc.call(billing.bus, subject, request, ReplayReply)).refused is None

    await billing.tell(call(ALICE, 3))
    after = await until_totals(billing, ALICE, 0, 300)
    assert (after.requests, after.newer_than(before)) == (3, True)

    async def nothing_due() -> bool:
        return billing.rows("SELECT * FROM totals_due") == []

    await eventually(nothing_due, "every total to be put")
