"""Several billing processes share the partitions, and none waits for one that died or hangs."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import psutil
import pytest
from nats.aio.msg import Msg
from webhost_contracts import ids, subjects, wire
from webhost_contracts.totals import Totals

from tests.integration.billing.conftest import PERIOD, Billing, call, telemetry
from tests.integration.billing.test_rebuild import no_other_generations
from tests.integration.billing.test_usage import counters, until_totals
from tests.support.deadline import eventually
from tests.support.proxy import Proxy
from tests.support.service import ServiceProcess

USERS = [ids.user_id("test", f"user {number}") for number in range(40)]
TAKEN_OVER_S = 10.0


@pytest.fixture
async def second(billing: Billing) -> AsyncIterator[ServiceProcess]:
    async with billing.process("webhost_billing") as process:
        yield process


async def shares(billing: Billing) -> list[int]:
    """How many partitions each session holds, the smallest share first."""
    held = await billing.rows(
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND objid < :partitions AND granted"
        " AND application_name = 'share billing usage' AND datname = current_database()",
        partitions=subjects.PARTITIONS,
    )
    return sorted(Counter(row["pid"] for row in held).values())


async def until_shares(billing: Billing, expected: list[int]) -> None:
    async def shared() -> bool:
        return await shares(billing) == expected

    await eventually(shared, f"shares of {expected}", seconds=TAKEN_OVER_S)


async def until_all_count(billing: Billing, calls: int, reported: int, seconds: float) -> None:
    """Ask the tables: a request might go to the process that hangs."""
    expected = counters(calls, reported)
    row = (expected.requests, expected.llm_tokens, expected.compute_ms, expected.cost_picodollars)

    async def counted() -> bool:
        found = await billing.rows(
            "SELECT requests, llm_tokens, compute_ms, cost_picodollars FROM billing_usage"
            " WHERE user_id = ANY(:users) AND generation = (SELECT live FROM generations)",
            users=USERS,
        )
        return [tuple(one.values()) for one in found] == [row] * len(USERS)

    await eventually(counted, f"{calls} calls of each user to count", seconds=seconds)


@pytest.mark.accept("A11")
async def test_a_new_process_has_its_share_within_seconds(
    billing: Billing, second: ServiceProcess
) -> None:
    await until_shares(billing, [8, 8])
    async with billing.process("webhost_billing") as third:
        await until_shares(billing, [4, 6, 6])
        await third.kill()
        await until_shares(billing, [8, 8])
    await billing.given_usage(*(call(user, 1) for user in USERS))
    await until_all_count(billing, 1, 0, 10)
    for user in USERS:
        assert (await until_totals(billing, user, 0, 100)).requests == 1


async def test_a_killed_process_is_replaced(billing: Billing, second: ServiceProcess) -> None:
    await until_shares(billing, [8, 8])
    await second.kill()
    await billing.given_usage(*(call(user, 1) for user in USERS))
    await until_all_count(billing, 1, 0, TAKEN_OVER_S)


async def test_a_frozen_process_is_replaced_and_spoils_nothing_when_it_wakes(
    billing: Billing, second: ServiceProcess
) -> None:
    await until_shares(billing, [8, 8])
    process = second.process
    assert process is not None

    async def freeze() -> None:
        # In the middle of the work, so that it wakes up with something under way.
        await asyncio.sleep(0.05)
        os.kill(process.pid, signal.SIGSTOP)

    facts = [call(user, number) for number in range(20) for user in USERS]
    await asyncio.gather(billing.given_usage(*facts), freeze())
    await billing.given_usage(*(telemetry(user, 1) for user in USERS))
    try:
        await until_all_count(billing, 20, 1, TAKEN_OVER_S)
        for user in USERS:
            await until_totals(billing, user, 10, 19 * 100 + 40)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    await until_shares(billing, [8, 8])
    await billing.given_usage(*(telemetry(user, 2) for user in USERS))
    await until_all_count(billing, 20, 2, 10)
    assert (await billing.rebuild(dry_run=True))[-1].differences == ()


async def test_who_wakes_up_puts_no_older_totals_over_newer_ones(billing: Billing) -> None:
    """It stands still between reading what it is to put and putting it."""
    frozen = billing.service.process
    assert frozen is not None
    await billing.given_folded(call(USERS[0], 1))
    await until_totals(billing, USERS[0], 0, 100)
    put: list[Totals] = []

    async def on_put(message: Msg) -> None:
        put.append(wire.decode(message.data, Totals))

    key = subjects.totals_key(USERS[0], PERIOD)
    await billing.bus.client.subscribe(f"$KV.{subjects.TOTALS_BUCKET}.{key}", cb=on_put)
    billing.service.crash_file.write_text("billing.totals_read stop")
    await billing.given_usage(call(USERS[0], 2))

    async def stands_still() -> bool:
        return psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED

    await eventually(stands_still, "the process to stand still")
    assert put == []
    async with billing.process("webhost_billing"):
        try:
            await until_totals(billing, USERS[0], 0, 200)
            await billing.given_usage(call(USERS[0], 3))
            newest = await until_totals(billing, USERS[0], 0, 300)
            there = len(put)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)

        async def has_tried() -> bool:
            return any(one.compute_ms == 200 for one in put[there:])

        await eventually(has_tried, "what it read long ago to be sent")
        assert await billing.totals(USERS[0]) == newest
        await until_shares(billing, [8, 8])
        await billing.given_usage(call(USERS[0], 4))
        await until_totals(billing, USERS[0], 0, 400)


async def test_totals_follow_a_rebuild_in_another_process(
    billing: Billing, second: ServiceProcess
) -> None:
    await until_shares(billing, [8, 8])
    await billing.given_usage(*(call(user, 1) for user in USERS))
    await until_all_count(billing, 1, 0, 10)
    await billing.execute("UPDATE billing_usage SET compute_ms = compute_ms + 1")
    assert len((await billing.rebuild())[-1].differences) == len(USERS)

    async def put_again() -> bool:
        found = [await billing.totals(user) for user in USERS]
        return {(one.compute_ms, one.generation) for one in found if one} == {(100, 2)}

    await eventually(put_again, "the totals of the new generation")
    await no_other_generations(billing)


@pytest.mark.long
@pytest.mark.accept("A3")
async def test_a_process_cut_off_from_the_bus_alone_is_replaced(
    billing: Billing, nats_account: str
) -> None:
    account, _, host = nats_account.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        url = f"{account}@127.0.0.1:{proxy.port}"
        async with billing.process("webhost_billing", NATS_URL=url) as process:
            await until_shares(billing, [8, 8])
            proxy.hold()
            await until_shares(billing, [16])
            await billing.given_usage(*(call(user, 1) for user in USERS))
            await until_all_count(billing, 1, 0, 10)
            proxy.release()
            await until_shares(billing, [8, 8])
            await billing.given_usage(*(telemetry(user, 1) for user in USERS))
            await until_all_count(billing, 1, 1, 10)
            # Not killed: the bus might still give the request to a process that just died.
            assert await process.stop() == 0
    assert (await billing.rebuild(dry_run=True))[-1].differences == ()
