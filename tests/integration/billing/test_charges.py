"""What is charged, and by which rules, when facts are not what they should be or rules change."""

from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from webhost_contracts import subjects

from tests.integration.billing.conftest import (
    ALICE,
    AT_MS,
    BOB,
    Billing,
    call,
    send_packet,
    telemetry,
)
from tests.integration.billing.test_usage import PICO_PER_MS, PICO_PER_REQUEST, counters
from tests.support.deadline import eventually

PRICE = (
    "[[prices]]\neffective_from = {}\nrequest = {}\nmillion_compute_ms = {}\nmillion_tokens = 0\n"
)
DAY_MS = 24 * 3_600_000
LONG_AGO = "2020-01-01T00:00:00Z"
PRICES = PRICE.format(LONG_AGO, 1, 20_000)


async def restart(billing: Billing, prices: Path, text: str, longest_call_s: int = 60) -> None:
    prices.write_text(text)  # noqa: ASYNC240 - a short file
    await billing.service.kill()
    billing.service.env["WEBHOST_PRICES_FILE"] = str(prices)
    billing.service.env["LONGEST_CALL_S"] = str(longest_call_s)
    await billing.service.start()


async def test_new_rules_between_two_halves_charge_exactly_once(
    billing: Billing, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    await restart(billing, prices, PRICES, longest_call_s=60)
    died = {"outcome": "unknown", "wall_ms": None}
    await billing.given_folded(
        call(ALICE, 1, **died),
        telemetry(ALICE, 2, compute_ms=80_000),
        call(ALICE, 3),
        telemetry(ALICE, 3),
    )
    # A book that must not be: it changes a price that was in force.
    await restart(billing, prices, PRICE.format(LONG_AGO, 5, 70_000), longest_call_s=30)
    await billing.given_folded(telemetry(ALICE, 1, compute_ms=80_000), call(ALICE, 2, **died))

    used = (await billing.usage(ALICE)).usage
    capped = 31_000
    assert (used.requests, used.llm_tokens) == (3, 30)
    assert used.compute_ms == 40 + 2 * capped
    by_new_rules = 2 * (5 * PICO_PER_REQUEST + capped * 70_000)
    assert used.cost_picodollars == PICO_PER_REQUEST + 40 * PICO_PER_MS + by_new_rules


@pytest.mark.accept("A8")
async def test_a_price_that_was_appended_changes_no_rebuild(
    billing: Billing, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    await restart(billing, prices, PRICES)
    await billing.given_folded(
        call(ALICE, 1), telemetry(ALICE, 2), call(ALICE, 3), telemetry(ALICE, 3)
    )
    later = AT_MS - AT_MS % DAY_MS + DAY_MS
    appended = PRICE.format(_utc(later), 9, 90_000)
    await restart(billing, prices, PRICES + appended)
    await billing.given_folded(
        telemetry(ALICE, 1), call(ALICE, 2), call(BOB, 1, admitted_at_ms=later), telemetry(BOB, 1)
    )
    assert (await billing.usage(ALICE)).usage == counters(3, 3)
    before = await billing.folded()
    last = (await billing.rebuild())[-1]
    assert (last.swapped, last.differences) == (True, ())
    assert await billing.folded() == before


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("wrong", ["producer", "partition"])
async def test_a_fact_in_the_wrong_packet_is_counted_and_not_charged(
    billing: Billing, wrong: str
) -> None:
    here, elsewhere = subjects.partition_of(ALICE), subjects.partition_of(BOB)
    assert here != elsewhere
    if wrong == "producer":
        subject = subjects.usage_packets(here, subjects.TELEMETRY_INGEST)
        packet = [telemetry(ALICE, 1)[1], call(ALICE, 2)[1]]
        expected = telemetry(ALICE, 1)
    else:
        subject = subjects.usage_packets(here, subjects.GATEWAY)
        packet = [call(BOB, 1)[1], call(ALICE, 2)[1]]
        expected = call(ALICE, 2)
    await send_packet(billing.bus, subject, packet)
    await billing.caught_up()
    assert (await billing.usage(BOB)).usage.requests == 0
    assert (await billing.usage(ALICE)).usage.requests == 1
    assert len(await billing.rows("SELECT 1 FROM invocations")) == 1
    refused = 'webhost_projector_facts_refused_total{projection="billing.usage"}'
    assert await _metric(billing, refused) == 1
    before = await billing.folded()
    assert (await billing.rebuild())[-1].differences == ()
    await billing.given_folded(expected)
    assert await billing.folded() == before


async def test_a_fact_of_an_unknown_version_is_parked_out_of_its_packet(billing: Billing) -> None:
    subject, good = call(ALICE, 1)
    body = (
        b'[{"eventId":"evt_1","aggregateId":"inv_9","version":1,"userId":"%b","occurredAtMs":1,'
        b'"actor":"gateway","data":{"type":"invocation.finished.v9"}}]'
    ) % ALICE.encode()
    await billing.bus.js.publish(subject, body, headers={subjects.TYPE_HEADER: "packet.v1"})
    await send_packet(billing.bus, subject, [good])
    await billing.caught_up()
    assert (await billing.usage(ALICE)).usage == counters(1, 0)
    [parked] = await billing.rows("SELECT projection, subject, aggregate_id FROM parked_events")
    assert parked["aggregate_id"] == "inv_9"
    assert parked["subject"] == subject
    partition = subjects.partition_of(ALICE)
    labels = f'partition="{partition}",projection="billing.usage"'
    metric = f"webhost_projector_parked_events{{{labels}}}"

    async def seen_by_an_operator() -> bool:
        return await _metric(billing, metric) == 1

    await eventually(seen_by_an_operator, "the parked event among the metrics")
    async with billing.http.get(f"{billing.service.ops_url}/readyz") as response:
        assert response.status == 200
        checks = (await response.json())["checks"]
    note = f"ok: partition {subjects.partition_of(ALICE)}: 1 parked"
    assert note in checks.values(), checks


async def test_totals_of_past_periods_end(billing: Billing) -> None:
    info = await billing.bus.js.stream_info(f"KV_{subjects.TOTALS_BUCKET}")
    assert info.config.max_age == 62 * 24 * 3600


async def _metric(billing: Billing, name: str) -> float:
    found = -1.0

    async def there() -> bool:
        nonlocal found
        url = f"{billing.service.ops_url}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            for line in (await response.text()).splitlines():
                if line.startswith(f"{name} "):
                    found = float(line.split()[1])
        return found >= 0

    await eventually(there, f"the metric {name}")
    return found


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
