"""Many messages at once: all of them stored, in order, or the caller knows of the doubt."""

import asyncio

import pytest
from nats.errors import Error as NatsError
from webhost_contracts import subjects
from webhost_kit.bus import packets
from webhost_kit.bus.packets import Packet
from webhost_kit.bus.publishing import FEW, Message, publish_together
from webhost_kit.eventsourcing.relay import Relay

from tests.support.harness import Harness, in_background
from tests.support.infra import Nats


def messages(count: int) -> list[Message]:
    return [Message("usage.usr_1.agt_1", b"%d" % n, {"N": str(n)}) for n in range(count)]


async def stored(harness: Harness) -> int:
    return (await harness.bus.js.stream_info(subjects.USAGE)).state.messages


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 1_000, 2_100])
async def test_all_are_stored_in_order(harness: Harness, count: int) -> None:
    await publish_together(harness.bus, messages(count))
    assert await stored(harness) == count
    last = await harness.bus.js.get_msg(subjects.USAGE, count)
    assert last.headers["N"] == str(count - 1)


async def test_a_subject_of_another_stream_refuses_the_batch(harness: Harness) -> None:
    mixed = [*messages(FEW), Message("evt.usr_1.agent.agt_1", b"", {})]
    with pytest.raises((NatsError, TimeoutError)):
        await publish_together(harness.bus, mixed)
    assert await stored(harness) == 0


@pytest.mark.parametrize(("count", "durable"), [(FEW - 1, FEW - 1), (FEW, 0)])
async def test_of_few_packets_one_that_fails_leaves_no_doubt_about_the_others(
    harness: Harness, count: int, durable: int
) -> None:
    good = [Packet(f"usage.usr_1.agt_{n}", [n], [b"{}"]) for n in range(count)]
    found = await packets.stored(harness.bus, [*good, Packet("nobodys", [count], [b"{}"])])
    assert found == good[:durable]
    assert await stored(harness) == durable


async def test_a_bus_that_is_away_is_a_doubt_within_a_bounded_time(
    harness: Harness, nats_server: Nats
) -> None:
    nats_server.kill()
    try:
        async with asyncio.timeout(10):
            with pytest.raises((NatsError, TimeoutError, OSError)):
                await publish_together(harness.bus, messages(FEW + 1))
    finally:
        nats_server.start()


async def test_the_relay_carries_usage_in_batches(harness: Harness) -> None:
    async with harness.database.transaction() as connection:
        # As the gateway does: its usage facts are in the outbox alone.
        await connection.exec_driver_sql(
            "INSERT INTO outbox (ordering_key, subject, message_id, headers, body)"
            " SELECT 'inv_' || n, 'usage.usr_1.agt_1', 'evt_' || n, '{}', ''"
            " FROM generate_series(1, 300) AS n"
        )
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "an empty outbox")
    assert await stored(harness) == 300
