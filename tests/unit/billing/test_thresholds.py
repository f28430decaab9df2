"""What has to be stated of a limit does not depend on where batches end, and is stated once."""

import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_billing.charging import add
from webhost_billing.folding import Charged, fold
from webhost_billing.model import UsageReport
from webhost_billing.periods.model import Period, evolve
from webhost_billing.thresholds import decisions as thresholds
from webhost_billing.thresholds.decisions import Threshold, Used
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import PeriodThresholdReached
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import Counters

from tests.support.facts import envelope
from tests.unit.billing.test_charging import RULES, by_gateway, by_worker
from tests.unit.billing.test_folding import reports_of_three

TIER = Entitlements(
    requests=4,
    tokens=10**9,
    compute_ms=50_000,
    requests_per_minute=1,
    telemetry_days=1,
    log_days=1,
)
UNLIMITED = Entitlements(requests_per_minute=1, telemetry_days=1, log_days=1)

Stated = set[tuple[str, str, str, int, int]]


def stated(*batches: list[UsageReport]) -> Stated:
    """What is stated when the stream is folded in these batches, as the projection does it."""
    known: dict[bytes, Charged] = {}
    totals: dict[tuple[str, str], Counters] = {}
    periods: dict[tuple[str, str], Period] = {}
    found: list[tuple[str, str, str, int, int]] = []
    for batch in batches:
        changes = fold(known, batch, RULES)
        known |= changes.charged
        for row, change in changes.rows.items():
            key = (row.user_id, row.period_key)
            totals[key] = add(totals.get(key, Counters()), change.counters)
        for key, course in thresholds.courses(changes.steps).items():
            now = totals[key]
            used = Used(now.requests, now.llm_tokens, now.compute_ms)
            period = periods.get(key, Period(*key))
            most = thresholds.at_most(used, course)
            for fact in thresholds.reached(key[1], period.reached, most, "free", TIER):
                period = evolve(period, envelope(key[0], period.id, fact), fact)
                found.append((*key, fact.limit_type, fact.limit, fact.percent))
            periods[key] = period
    assert len(found) == len(set(found)), "stated twice"
    return set(found)


def expected(reports: list[UsageReport]) -> Stated:
    """What is to be stated: each part of a limit that a user's sum had reached after any report."""
    known: dict[bytes, Charged] = {}
    found: Stated = set()
    for report in reports:
        known |= fold(known, [report], RULES).charged
        sums: dict[tuple[str, str], list[int]] = {}
        for one in known.values():
            counters = one.charge.counters
            row = sums.setdefault((one.charge.row.user_id, one.charge.row.period_key), [0, 0, 0])
            row[0] += counters.requests
            row[1] += counters.llm_tokens
            row[2] += counters.compute_ms
        for (user, period), used in sums.items():
            limits = {"requests": 4, "tokens": 10**9, "computeMs": 50_000}
            for (name, limit), amount in zip(limits.items(), used, strict=True):
                found |= {
                    (user, period, name, limit, percent)
                    for percent in (50, 80, 100)
                    if amount >= limit * percent / 100
                }
    return found


@pytest.mark.accept("8.thresholds")
@given(reports_of_three, st.lists(st.integers(0, 12), max_size=4))
def test_batches_may_end_anywhere(reports: list[UsageReport], cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(reports)) for cut in cuts), len(reports)]
    batches = [reports[start:end] for start, end in itertools.pairwise(ends)]
    assert stated(*batches) == stated(reports) == expected(reports)


@given(by_gateway, by_worker)
def test_what_a_correction_takes_back_was_reached(gateway, worker) -> None:
    """The gateway's wall time passed the limit for a moment; the Worker's report is far lower."""
    gateway = msgspec.structs.replace(
        gateway, gateway=msgspec.structs.replace(gateway.gateway, wall_ms=60_000)
    )
    worker = msgspec.structs.replace(
        worker, worker=msgspec.structs.replace(worker.worker, compute_ms=5)
    )
    reports = [UsageReport(b"a", side, 0) for side in (gateway, worker)]
    of_compute = {one[2:] for one in stated(reports) if one[2] == "computeMs"}
    assert of_compute == {("computeMs", 50_000, percent) for percent in (50, 80, 100)}


def reached(used: Used, stated: set[Threshold], tier: Entitlements = TIER) -> list[Threshold]:
    facts = thresholds.reached("2026-11", frozenset(stated), used, "free", tier)
    assert {(fact.period_key, fact.tier) for fact in facts} <= {("2026-11", "free")}
    return [Threshold(fact.limit_type, fact.limit, fact.percent) for fact in facts]


@pytest.mark.accept("8.thresholds")
def test_each_part_is_stated_at_its_amount_and_once() -> None:
    fifty, eighty = (Threshold("computeMs", 50_000, percent) for percent in (50, 80))
    assert reached(Used(1, 0, 24_999), set()) == []
    assert reached(Used(1, 0, 25_000), set()) == [fifty]
    assert reached(Used(1, 0, 39_999), {fifty}) == []
    assert reached(Used(1, 0, 40_000), {fifty}) == [eighty]
    assert reached(Used(4, 0, 0), set()) == [Threshold("requests", 4, p) for p in (50, 80, 100)]


def test_another_limit_is_stated_anew_and_none_is_never_reached() -> None:
    of_four = {Threshold("requests", 4, percent) for percent in (50, 80, 100)}
    higher = msgspec.structs.replace(TIER, requests=8)
    assert reached(Used(4, 0, 0), of_four, higher) == [Threshold("requests", 8, 50)]
    assert reached(Used(4, 0, 0), of_four) == []
    assert reached(Used(10**9, 10**12, 10**12), set(), UNLIMITED) == []
    nothing = msgspec.structs.replace(UNLIMITED, tokens=0)
    assert reached(Used(), set(), nothing) == [Threshold("tokens", 0, p) for p in (50, 80, 100)]


def test_a_period_is_what_its_facts_say() -> None:
    period = Period("usr_a", period_key(0))
    assert (period.id, period.version) == ("usr_a.1970-01", 0)
    fact = PeriodThresholdReached(
        period_key="1970-01", limit_type="tokens", percent=80, limit=10, tier="free"
    )
    for version in (1, 2):
        period = evolve(period, envelope("usr_a", period.id, fact, version=version), fact)
    assert period == replace(
        Period("usr_a", "1970-01"), version=2, reached=frozenset({Threshold("tokens", 10, 80)})
    )


@given(by_gateway)
def test_a_repeat_is_no_step(gateway) -> None:
    report = UsageReport(b"a", gateway, 0)
    assert len(fold({}, [report] * 3, RULES).steps) == 1
