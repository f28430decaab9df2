"""After a restore, billing's own facts make its accounts what they were."""

import psycopg
import pytest
from webhost_contracts import subjects
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus, connect

from tests.integration.billing.conftest import ALICE, BOB
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
