"""Each gateway publishes what it recorded, and what it adopted."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY
from psycopg.rows import TupleRow
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.events.packets import PACKET
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_gateway.ledger.usage_relay import WAITING, UsageRelay, message_of
from webhost_gateway.model import Outcome, closing
from webhost_gateway.routing.totals import TotalsWatch
from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.packets import PACKET_BYTES, in_packets
from webhost_kit.clock import now_ms
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.statements import Statements

from tests.integration.gateway.harness import Harness
from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.support.deadline import eventually
from tests.support.harness import in_background

UNKNOWN = Outcome(outcome="unknown")


@pytest.fixture
async def bus(nats_account: str) -> AsyncIterator[Bus]:
    bus = await connect(nats_account, "test")
    yield bus
    await bus.close()


async def stated(bus: Bus) -> list[tuple[str, list[Envelope]]]:
    """Every packet on USAGE: its subject and its facts."""
    info = await bus.js.stream_info(subjects.USAGE)
    found: list[tuple[str, list[Envelope]]] = []
    for sequence in range(1, info.state.last_seq + 1):
        message = await bus.js.get_msg(subjects.USAGE, sequence, direct=True)
        assert (message.headers or {})[subjects.TYPE_HEADER] == PACKET
        found.append((message.subject or "", wire.decode(message.data or b"", list[Envelope])))
    return found


def waits(here: Ledger, gateway_id: str, number: int) -> set[str]:
    """Put facts into the outbox; return the ids of their calls."""
    rows = [closing(an_invocation(f"usr_{n}"), UNKNOWN, now_ms()) for n in range(number)]
    for row in rows:
        here.rows(
            "INSERT INTO usage_outbox (gateway_id, subject, body, oldest_ms)"
            " VALUES (%s, %s, %s, %s)",
            gateway_id,
            row.subject,
            row.body,
            row.finished_at_ms,
        )
    return {row.id for row in rows}


async def until_empty(here: Ledger, gateway_id: str) -> None:
    async def empty() -> bool:
        query = "SELECT serial FROM usage_outbox WHERE gateway_id = %s"
        return here.rows(query, gateway_id) == []

    await eventually(empty, "the outbox to be empty", seconds=15)


@pytest.mark.accept("A11")
async def test_facts_travel_in_packets_of_their_partition(database_url: str, bus: Bus) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        own = waits(here, here.lease.gateway_id, 700)
        waits(here, "gw_other", 1)
        publishing = Statements(database_url, "gateway publishing")
        relay = UsageRelay(publishing, bus, here.lease)
        async with in_background(relay.run()):
            await until_empty(here, here.lease.gateway_id)
            late = waits(here, here.lease.gateway_id, 3)
            relay.wake()
            await until_empty(here, here.lease.gateway_id)
        await publishing.close()
        packets = await stated(bus)
        for subject, facts in packets:
            partitions = {subjects.partition_of(fact.user_id) for fact in facts}
            assert {subjects.usage_packets(p, subjects.GATEWAY) for p in partitions} == {subject}
        assert len(packets) <= 3 * subjects.PARTITIONS
        named = [fact.aggregate_id for _, facts in packets for fact in facts]
        assert sorted(named) == sorted(own | late)
        assert len(here.rows("SELECT serial FROM usage_outbox")) == 1


@pytest.mark.accept("A10")
async def test_a_row_that_commits_late_is_published(database_url: str, bus: Bus) -> None:
    """The reaper's rows may have lower serials than rows that were published before them."""
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        own = here.lease.gateway_id
        publishing = Statements(database_url, "gateway publishing")
        relay = UsageRelay(publishing, bus, here.lease)
        waits(here, own, 2)
        here.rows("UPDATE usage_outbox SET gateway_id = 'gw_dead' WHERE serial = 1")
        async with in_background(relay.run()):
            await until_empty(here, own)
            here.rows("UPDATE usage_outbox SET gateway_id = %s", own)
            relay.wake_from_start()
            async with asyncio.timeout(5):
                await until_empty(here, own)
        await publishing.close()


@pytest.mark.accept("7.metrics")
async def test_how_long_the_oldest_waits_is_measured(database_url: str, bus: Bus) -> None:
    upgrade(database_url, "webhost_gateway")

    def measured() -> float:
        value = REGISTRY.get_sample_value("webhost_gateway_usage_oldest_age_seconds")
        assert value is not None
        return value

    async with ledger(database_url) as here:
        own = here.lease.gateway_id
        publishing = Statements(database_url, "gateway publishing")
        relay = UsageRelay(publishing, bus, here.lease)
        assert measured() == 0
        await bus.js.delete_stream(subjects.USAGE)
        waits(here, own, 2)
        oldest_ms = now_ms() - 90_000
        here.rows("UPDATE usage_outbox SET oldest_ms = %s WHERE serial = 1", oldest_ms)
        async with in_background(relay.run()):

            async def waiting() -> bool:
                return relay.check() == "bus away: publish not acknowledged"

            await eventually(waiting, "the relay to wait", seconds=15)
            assert 90 <= measured() <= (now_ms() - oldest_ms) / 1000
            await streams.make(bus.js, subjects.USAGE)
            await until_empty(here, own)

            async def none() -> bool:
                return measured() == 0

            await eventually(none, "nothing to wait")
        await publishing.close()


@pytest.mark.accept("A10")
async def test_what_was_published_is_not_looked_at_again(
    database_url: str, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        publishing = Statements(database_url, "gateway publishing")
        passed: list[int] = []

        async def spy(*steps: tuple[str, Mapping[str, Any]]) -> list[TupleRow]:
            passed.extend(given["passed"] for sql, given in steps if sql == WAITING)
            return await execute(*steps)

        execute = publishing.execute
        monkeypatch.setattr(publishing, "execute", spy)
        relay = UsageRelay(publishing, bus, here.lease)
        async with in_background(relay.run()):
            for _ in range(2):
                waits(here, here.lease.gateway_id, 3)
                relay.wake()
                await until_empty(here, here.lease.gateway_id)
        await publishing.close()
        assert passed[0] == 0
        assert passed[-1] >= 3


@pytest.mark.accept("A10")
async def test_the_facts_of_a_dead_gateway_are_adopted(own_harness: Harness) -> None:
    """Its lease was marked, its calls finished, and then its reaper died too."""
    harness = own_harness
    gateway = await harness.start(LEASE_TTL_S="2")
    agent = await harness.agent()
    row = closing(an_invocation(agent.user_id), UNKNOWN, now_ms())
    await harness.execute("INSERT INTO leases VALUES ('gw_dead', now(), 'another run', true)")
    await harness.execute(
        "INSERT INTO usage_outbox (gateway_id, subject, body, oldest_ms)"
        " VALUES ('gw_dead', :subject, :body, 1)",
        subject=row.subject,
        body=row.body,
    )

    async def there() -> bool:
        return row.id in {envelope.aggregate_id for envelope in await harness.packed(agent)}

    await eventually(there, "the fact")
    assert await gateway.stop() == 0
    assert await harness.rows("SELECT * FROM leases") == []


def test_a_packet_is_not_larger_than_a_message_may_be() -> None:
    body = b"x" * (PACKET_BYTES // 3)
    packets = in_packets((n, f"usage.{n % 2}.gateway", body) for n in range(10))
    assert [packet.items for packet in packets] == [[0, 2, 4], [1, 3, 5], [6, 8], [7, 9]]
    assert len({message_of(packet).message_id for packet in packets}) == 2


@pytest.mark.accept("A9")
async def test_totals_of_past_periods_are_dropped(bus: Bus) -> None:
    watch = TotalsWatch(bus)
    kv = await bus.js.key_value(subjects.TOTALS_BUCKET)
    totals = wire.encode(Totals(tokens=1, compute_ms=1, generation=1, sequence=1, requests=7))
    current = period_key(now_ms())
    for period in ("2000-01", current):
        await kv.put(subjects.totals_key("usr_1", period), totals)
    assert watch.requests(current) is None
    async with in_background(watch.run()):

        async def loaded() -> bool:
            return watch.loaded

        await eventually(loaded, "the totals")
    assert watch.of("usr_1", "2000-01") is None
    assert watch.requests("2000-01") == []
    assert watch.requests(current) == [("usr_1", 7)]
