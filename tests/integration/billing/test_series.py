"""Usage by minute, hour and day, and the invoice's lines, from real facts by the real process."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from webhost_billing.series.queries import MOST_LINES
from webhost_contracts import subjects
from webhost_contracts.buckets import BUCKETS, SIZE_MS, Bucket, start_of
from webhost_contracts.periods import day_key, period_key, span_ms
from webhost_contracts.usage_rpc import (
    Counters,
    InvoiceReply,
    InvoiceRequest,
    SeriesReply,
    SeriesRequest,
)
from webhost_kit.bus import rpc

from tests.integration.billing.conftest import ALICE, AT_MS, BOB, Billing, call, telemetry
from tests.integration.billing.test_charges import PRICE, restart
from tests.integration.billing.test_usage import PICO_PER_MS, PICO_PER_REQUEST, counters
from tests.support.deadline import eventually

LIVE = "generation = (SELECT live FROM generations)"
DAY_MS = SIZE_MS["day"]
TODAY = start_of("day", AT_MS)
YESTERDAY = TODAY - 1
"""The last millisecond of it."""


async def used(
    billing: Billing, bucket: Bucket, user_id: str = ALICE, **filters: Any
) -> dict[int, Counters]:
    """What billing replies of the last three days."""
    request = SeriesRequest(
        user_id=user_id, bucket=bucket, from_ms=AT_MS - 3 * DAY_MS, to_ms=AT_MS + 1, **filters
    )
    reply = await rpc.call(billing.bus, subjects.RPC_USAGE_SERIES, request, SeriesReply)
    assert [*reply.points] == sorted(reply.points, key=lambda point: point.start_ms)
    return {point.start_ms: point.counters for point in reply.points}


async def invoice(billing: Billing, period: str, user_id: str = ALICE) -> InvoiceReply:
    request = InvoiceRequest(user_id=user_id, period_key=period)
    return await rpc.call(billing.bus, subjects.RPC_INVOICE, request, InvoiceReply)


async def some_usage(billing: Billing) -> None:
    """Of Alice: yesterday 2 calls of one agent, today 3 of two agents, 1 of each day reported."""
    await billing.given_folded(
        # The Worker's clock is a day off: the charge moves to where the gateway admitted the call.
        telemetry(ALICE, 1, timestamp_ms=AT_MS),
        call(ALICE, 1, admitted_at_ms=YESTERDAY),
        call(ALICE, 2, admitted_at_ms=YESTERDAY),
        call(ALICE, 3, agent_id="agt_b", deployment_id="dep_b"),
        call(ALICE, 4, deployment_id="dep_c"),
        call(ALICE, 5),
        call(BOB, 1),
    )
    await billing.given_folded(telemetry(ALICE, 4, deployment_id="dep_c"), call(ALICE, 5))


@pytest.mark.accept("8.series")
@pytest.mark.accept("8.series.rebuild")
async def test_series_are_the_charges_and_are_rebuilt_to_the_same_rows(billing: Billing) -> None:
    await some_usage(billing)
    for bucket in BUCKETS:
        assert await used(billing, bucket) == {
            start_of(bucket, YESTERDAY): counters(2, 1),
            start_of(bucket, AT_MS): counters(3, 1),
        }
    assert await used(billing, "day", BOB) == {TODAY: counters(1, 0)}
    days = {"yesterday": start_of("day", YESTERDAY), "today": TODAY}
    assert await used(billing, "day", agent_id="agt_b") == {days["today"]: counters(1, 0)}
    assert await used(billing, "day", agent_id="agt_a") == {
        days["yesterday"]: counters(2, 1),
        days["today"]: counters(2, 1),
    }
    assert await used(billing, "day", deployment_id="dep_c") == {days["today"]: counters(1, 1)}
    assert await used(billing, "hour", runtime_provider="agentcore") == {}

    before = await billing.folded()
    last = (await billing.rebuild())[-1]
    assert (last.swapped, last.differences) == (True, ())
    assert await billing.folded() == before

    changed = await billing.execute(
        "UPDATE usage_series SET llm_tokens = llm_tokens + 7"
        f" WHERE bucket = 'hour' AND deployment_id = 'dep_c' AND user_id = '{ALICE}' AND {LIVE}"
    )
    removed = await billing.execute(
        f"DELETE FROM usage_series WHERE bucket = 'day' AND user_id = '{BOB}' AND {LIVE}"
    )
    assert (changed, removed) == (1, 1)
    found = (await billing.rebuild(dry_run=True))[-1].differences
    by_user = {one.user_id: one for one in found}
    assert len(found) == 2
    hour, day = by_user[ALICE], by_user[BOB]
    assert (hour.bucket, hour.start_ms) == ("hour", start_of("hour", AT_MS))
    assert (hour.agent_id, hour.deployment_id) == ("agt_a", "dep_c")
    assert hour.live is not None
    assert hour.rebuilt is not None
    assert (hour.live.llm_tokens, hour.rebuilt.llm_tokens) == (17, 10)
    assert (day.bucket, day.live, day.period_key) == ("day", None, period_key(AT_MS))
    assert (await billing.rebuild())[-1].differences == tuple(found)
    assert await billing.folded() == before


@pytest.mark.accept("8.series.retention")
async def test_old_minutes_and_hours_are_removed_and_days_stay(billing: Billing) -> None:
    long_ago = AT_MS - 37 * DAY_MS
    await billing.given_folded(call(ALICE, 1), call(ALICE, 2, admitted_at_ms=long_ago))
    assert (await billing.usage(ALICE, period_key(long_ago))).usage.requests == 1
    starts = await buckets_of(billing)
    assert starts == {
        ("minute", start_of("minute", AT_MS)),
        *(("hour", start_of("hour", at_ms)) for at_ms in (AT_MS, long_ago)),
        *(("day", start_of("day", at_ms)) for at_ms in (AT_MS, long_ago)),
    }
    assert (await billing.rebuild(dry_run=True))[-1].differences == ()

    # As if a year had passed, and a little more.
    await billing.service.kill()
    await billing.execute(f"UPDATE usage_series SET start_ms = start_ms - {370 * DAY_MS}")
    await billing.service.start()
    kept = {(bucket, start - 370 * DAY_MS) for bucket, start in starts}
    kept = {
        (bucket, start)
        for bucket, start in kept
        if bucket == "day" or (bucket == "hour" and start > AT_MS - 401 * DAY_MS)
    }

    async def removed() -> bool:
        return await buckets_of(billing) == kept

    await eventually(removed, "old minutes and hours to be removed")
    assert len(kept) == 3


async def buckets_of(billing: Billing) -> set[tuple[str, int]]:
    rows = await billing.rows("SELECT bucket, start_ms FROM usage_series WHERE generation = 1")
    return {(row["bucket"], row["start_ms"]) for row in rows}


@pytest.mark.accept("8.invoice")
async def test_an_invoice_adds_up_to_usage_over_a_change_of_prices(
    billing: Billing, tmp_path: Path
) -> None:
    day = datetime.fromtimestamp(TODAY / 1000, UTC)
    new_prices = PRICE.format(day.isoformat().replace("+00:00", "Z"), 7, 30_001)
    old_prices = PRICE.format("2020-01-01T00:00:00Z", 1, 20_000)
    await restart(billing, tmp_path / "prices.toml", old_prices + new_prices)
    await some_usage(billing)
    costs: dict[tuple[str | None, str], int] = {}
    for period in {period_key(YESTERDAY), period_key(TODAY)}:
        found = await invoice(billing, period)
        usage = (await billing.usage(ALICE, period)).usage
        assert found.usage == usage
        assert found.other_agents == 0
        sums = {
            name: sum(getattr(line.counters, name) for line in found.lines)
            for name in Counters.__struct_fields__
        }
        assert Counters(**sums) == usage
        for line in found.lines:
            price = found.prices[line.price]
            assert (price.request, price.million_compute_ms) == (
                (1, 20_000) if line.day == day_key(YESTERDAY) else (7, 30_001)
            )
            costs[line.agent_id, line.day] = line.counters.cost_picodollars
    assert costs == {
        ("agt_a", day_key(YESTERDAY)): 2 * PICO_PER_REQUEST + 140 * PICO_PER_MS,
        ("agt_a", day_key(TODAY)): 2 * 7 * PICO_PER_REQUEST + 140 * 30_001,
        ("agt_b", day_key(TODAY)): 7 * PICO_PER_REQUEST + 100 * 30_001,
    }
    nothing = await invoice(billing, "2021-02")
    assert (nothing.usage, nothing.lines, nothing.prices) == (Counters(), (), ())


@pytest.mark.accept("8.invoice")
async def test_an_invoice_adds_up_while_more_is_used(billing: Billing) -> None:
    await billing.given_folded(call(ALICE, 1))
    with psycopg.connect(billing.dsn) as fold:
        fold.execute("LOCK TABLE usage_series IN ACCESS EXCLUSIVE MODE")
        asked = asyncio.create_task(invoice(billing, period_key(AT_MS)))
        await billing.until_scalar(
            "SELECT count(*) FROM pg_locks WHERE relation = 'usage_series'::regclass"
            " AND NOT granted",
            1,
            "the invoice to be between its two reads",
        )
        for table in ("billing_usage", "usage_series"):
            fold.execute(f"UPDATE {table} SET requests = requests + 1".encode())
    found = await asked
    assert sum(line.counters.requests for line in found.lines) == found.usage.requests == 1


@pytest.mark.accept("8.invoice")
async def test_an_invoice_of_very_many_agents_is_bounded_and_adds_up(billing: Billing) -> None:
    agents, largest = MOST_LINES // 2 + 50, 10**21
    start, _ = span_ms("2024-02")
    await billing.execute(
        "INSERT INTO usage_series SELECT 1,"
        f" {subjects.partition_of(ALICE)}, '{ALICE}', 'day', day,"
        " 'agt_' || lpad(agent::text, 26, '0'), 'dep_x', 'cloudflare', 1, 1000000000, 1000000000,"
        f" 1000000000, 1000000000, 1000000000, CAST('{largest}' AS numeric) + agent"
        f" FROM generate_series(1, {agents}) agent, "
        f" generate_series({start + 27 * DAY_MS}, {start + 28 * DAY_MS}, {DAY_MS}) day"
    )
    found = await invoice(billing, "2024-02")
    named = [line for line in found.lines if line.agent_id is not None]
    others = found.lines[len(named) :]
    assert (len(named), found.other_agents) == (MOST_LINES, 50)
    assert {line.agent_id for line in named} == {
        f"agt_{number:026d}" for number in range(51, agents + 1)
    }
    assert [line.day for line in others] == ["2024-02-28", "2024-02-29"]
    total = sum(line.counters.cost_picodollars for line in found.lines)
    assert total == 2 * sum(largest + number for number in range(1, agents + 1))
