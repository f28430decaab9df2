"""After a restore, billing's own facts make its accounts what they were."""

from typing import Any

import pytest
from webhost_billing.partitions import checkpoint_name
from webhost_contracts import maintenance, subjects
from webhost_contracts.maintenance import ProjectionRequest, ReplayReply
from webhost_contracts.rpc import (
    AccountStatus,
    SetAccountStatusReply,
    SetAccountStatusRequest,
    SetTierReply,
    SetTierRequest,
)
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus

from tests.integration.billing.conftest import ALICE, BOB, PERIOD, Billing, call, telemetry
from tests.integration.billing.test_usage import until_totals
from tests.support.deadline import eventually


async def put_on(bus: Bus, user_id: str, tier: str) -> None:
    request = SetTierRequest(user_id=user_id, tier=tier, operator="olivia")
    reply = await rpc.call(bus, subjects.RPC_SET_TIER, request, SetTierReply)
    assert reply.refused is None


async def put(bus: Bus, user_id: str, status: AccountStatus) -> None:
    request = SetAccountStatusRequest(user_id=user_id, status=status, operator="olivia")
    subject = subjects.RPC_SET_ACCOUNT_STATUS
    reply = await rpc.call(bus, subject, request, SetAccountStatusReply)
    assert reply == SetAccountStatusReply(status=status)


async def accounts(billing: Billing) -> list[dict[str, Any]]:
    return await billing.rows(
        "SELECT a.*, e.version, e.event_id FROM accounts a"
        " JOIN events e ON e.aggregate_id = a.user_id ORDER BY 1, e.version"
    )


@pytest.mark.accept("A1")
async def test_accounts_are_folds_of_billings_own_facts(billing: Billing) -> None:
    await put_on(billing.bus, ALICE, "pro")
    await put_on(billing.bus, BOB, "pro")
    await put_on(billing.bus, ALICE, "free")
    await put(billing.bus, ALICE, "disabled")
    await put(billing.bus, BOB, "disabled")
    await put(billing.bus, BOB, "disabled")
    await put(billing.bus, BOB, "enabled")

    async def relayed() -> bool:
        return (await billing.bus.js.stream_info(subjects.EVENTS)).state.messages == 6

    await eventually(relayed, "the facts on the stream")
    before = await accounts(billing)
    assert {row["user_id"]: row["disabled"] for row in before} == {ALICE: True, BOB: False}
    await billing.service.stop()
    # As a backup from before all this would have it.
    await billing.execute("TRUNCATE accounts, events, outbox")
    await billing.execute("DELETE FROM checkpoints WHERE name = 'billing.own-facts'")
    await billing.service.start()
    assert await accounts(billing) == before
    await put_on(billing.bus, ALICE, "pro")
    assert sorted(row["version"] for row in await accounts(billing)) == [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.accept("A1")
async def test_totals_go_on_when_usage_begins_again(billing: Billing) -> None:
    await billing.given_folded(call(ALICE, 1), call(ALICE, 2))
    before = await until_totals(billing, ALICE, 0, 200)
    partition = subjects.partition_of(ALICE)
    # What had not been put when the stream was lost, of somebody who makes no more calls.
    await billing.execute(
        f"INSERT INTO totals_due VALUES ({partition}, '{BOB}', '{PERIOD}', 1, 1000)"
    )
    info = await billing.bus.js.stream_info(subjects.USAGE)
    await billing.bus.js.delete_stream(subjects.USAGE)
    await billing.bus.js.add_stream(info.config)

    async def halted() -> bool:
        return not await billing.service.ready()

    await eventually(halted, "billing to halt", seconds=20)
    assert "not the one that usage was folded from" in str((await billing.rebuild())[-1].refused)
    subject = maintenance.subject("billing", maintenance.REPLAY)
    for one in range(subjects.PARTITIONS):
        request = ProjectionRequest(projection=checkpoint_name(one))
        assert (await rpc.call(billing.bus, subject, request, ReplayReply)).refused is None

    await billing.given_folded(call(ALICE, 3))
    after = await until_totals(billing, ALICE, 0, 300)
    assert (after.requests, after.replaces(before)) == (3, True)

    async def nothing_due() -> bool:
        return await billing.rows("SELECT * FROM totals_due") == []

    await eventually(nothing_due, "every total to be put")

    # The stream holds the third call alone: a rebuild would forget the others.
    folded = await billing.folded()
    assert "not hold 2 invocations" in str((await billing.rebuild())[-1].refused)
    differences = (await billing.rebuild(dry_run=True))[-1].differences
    [difference] = [one for one in differences if one.bucket is None]
    assert difference.rebuilt is not None
    assert difference.rebuilt.requests == 1
    assert await billing.folded() == folded

    # The feed goes on as well: what has waited since before is settled, and nothing is twice.
    await billing.given_folded(telemetry(ALICE, 1), telemetry(ALICE, 3), call(ALICE, 1))
    feed = await billing.rows("SELECT number, id FROM usage_feed ORDER BY number")
    assert [tuple(row.values()) for row in feed] == [(1, "inv_1"), (2, "inv_3")]


@pytest.mark.accept("6.C3.streams")
async def test_who_disables_an_account_hears_that_it_is_not_in_force(billing: Billing) -> None:
    """Its fact waits for room; a repeat says the same, until it is published."""
    config = (await billing.bus.js.stream_info(subjects.EVENTS)).config
    await billing.bus.js.update_stream(config.evolve(max_bytes=1))
    request = SetAccountStatusRequest(user_id=ALICE, status="disabled", operator="olivia")

    async def waits() -> bool:
        subject = subjects.RPC_SET_ACCOUNT_STATUS
        reply = await rpc.call(billing.bus, subject, request, SetAccountStatusReply)
        assert reply.status == "disabled"
        return reply.waits

    assert await waits()
    await billing.bus.js.update_stream(config)

    async def in_force() -> bool:
        return not await waits()

    await eventually(in_force, "the account to be disabled")
