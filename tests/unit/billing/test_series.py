"""Usage by minute, hour and day: what each charge comes to, where its call was admitted."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_billing.charging import UsageRow, add
from webhost_billing.folding import Charged, RowChange, fold
from webhost_billing.model import GatewaySide, Invocation, UsageReport, WorkerSide
from webhost_billing.series.model import SeriesRow
from webhost_contracts.buckets import BUCKETS, SIZE_MS
from webhost_contracts.periods import period_key, span_ms
from webhost_contracts.usage_rpc import Counters

from tests.unit.billing.test_charging import RULES, by_gateway, by_worker


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


EDGES = [
    at(text)
    for text in (
        "2024-02-29T00:00:00",
        "2024-03-01T00:00:00",
        "2023-03-01T00:00:00",
        "2025-01-01T00:00:00",
        # Where clocks are put forward and back in Europe and in America: days in UTC have 24 hours.
        *("2025-03-30T01:00:00", "2025-10-26T01:00:00", "2025-03-09T07:00:00"),
        "2024-06-30T23:59:59",
    )
]
times = st.builds(
    lambda edge, offset: edge + offset,
    st.sampled_from(EDGES),
    st.sampled_from([-86_400_001, -60_001, -1, 0, 1, 59_999, 3_600_000, 86_399_999]),
)
sides = st.builds(
    lambda side, at_ms, deployment: replace(side, at_ms=at_ms, deployment_id=deployment),
    by_gateway | by_worker,
    times,
    st.sampled_from(["dep_1", "dep_2"]),
)
streams = st.lists(
    st.builds(
        UsageReport,
        key=st.sampled_from([b"a", b"b", b"c"]),
        invocation=sides,
        occurred_at_ms=st.integers(0, 10**12),
        provider=st.none(),
    ),
    max_size=10,
)

CALLED = Invocation(
    user_id="a",
    agent_id="a",
    deployment_id="dep_1",
    runtime_provider="a",
    at_ms=0,
    gateway=GatewaySide(invocation_id="inv_1", errors=0, wall_ms=20),
)
REPORTED = replace(
    CALLED,
    gateway=None,
    worker=WorkerSide(
        event_id="inv_1", requests=1, llm_tokens=5, compute_ms=9, tool_calls=1, errors=0
    ),
)
"""The two sides of a call."""

Sums = dict[SeriesRow, tuple[Counters, int]]


def folded(*batches: list[UsageReport]) -> tuple[dict[bytes, Charged], Sums, dict[UsageRow, int]]:
    """What is known after these batches, the series, and the cost of each row of usage."""
    known: dict[bytes, Charged] = {}
    series: Sums = {}
    costs: dict[UsageRow, int] = {}
    for batch in batches:
        changes = fold(known, batch, RULES)
        known |= changes.charged
        for row, change in changes.series.items():
            counters, invocations = series.get(row, (Counters(), 0))
            series[row] = (add(counters, change.counters), invocations + change.invocations)
        for row, change in changes.rows.items():
            costs[row] = costs.get(row, 0) + change.counters.cost_picodollars
    return known, series, costs


def charged_in(invocations: list[Charged]) -> Sums:
    """Each charge, in the minute, hour and day of its call."""
    sums: Sums = {}
    for one, bucket in itertools.product(invocations, BUCKETS):
        call = one.invocation
        row = SeriesRow(
            bucket,
            call.at_ms // SIZE_MS[bucket] * SIZE_MS[bucket],
            *(call.user_id, call.agent_id, call.deployment_id, call.runtime_provider),
        )
        counters, count = sums.get(row, (Counters(), 0))
        sums[row] = (add(counters, one.charge.counters), count + 1)
    return sums


@pytest.mark.accept("8.series")
@given(streams, st.lists(st.integers(0, 10), max_size=4))
def test_the_series_do_not_depend_on_where_batches_end(
    reports: list[UsageReport], cuts: list[int]
) -> None:
    ends = [0, *sorted(min(cut, len(reports)) for cut in cuts), len(reports)]
    batches = [reports[start:end] for start, end in itertools.pairwise(ends)]
    assert folded(*batches) == folded(reports)


@pytest.mark.accept("8.series")
@given(streams)
def test_every_charge_is_in_the_buckets_of_its_call_and_in_no_other(
    reports: list[UsageReport],
) -> None:
    known, series, _ = folded(reports)
    there = {row: sums for row, sums in series.items() if sums[1]}
    assert there == charged_in(list(known.values()))
    assert all(sums == (Counters(), 0) for row, sums in series.items() if row not in there)


@pytest.mark.accept("8.series")
@given(streams)
def test_minutes_hours_and_days_each_add_up_to_usage(reports: list[UsageReport]) -> None:
    _, series, costs = folded(reports)
    for bucket in BUCKETS:
        sums = dict.fromkeys(costs, 0)
        for row, (counters, _) in series.items():
            if row.bucket == bucket:
                usage = UsageRow(row.user_id, period_key(row.start_ms), row.runtime_provider)
                sums[usage] += counters.cost_picodollars
        assert sums == costs


@pytest.mark.accept("8.series")
def test_the_last_millisecond_of_a_leap_day_counts_on_it() -> None:
    first_of_march = at("2024-03-01T00:00:00")
    for at_ms, day, period in (
        (first_of_march - 1, at("2024-02-29T00:00:00"), "2024-02"),
        (first_of_march, first_of_march, "2024-03"),
    ):
        report = UsageReport(b"a", replace(CALLED, at_ms=at_ms), 0)
        changes = fold({}, [report], RULES)
        starts = {row.bucket: row.start_ms for row in changes.series}
        assert starts["day"] == day
        assert starts["hour"] == at_ms // 3_600_000 * 3_600_000
        [row] = changes.rows
        assert row.period_key == period


def test_a_period_spans_its_month() -> None:
    for period, start, end in (
        ("2024-02", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("2025-12", "2025-12-01T00:00:00", "2026-01-01T00:00:00"),
        ("2025-01", "2025-01-01T00:00:00", "2025-02-01T00:00:00"),
    ):
        assert span_ms(period) == (at(start), at(end))
        assert [period_key(at(end) - 1), period_key(at(start))] == [period, period]


def test_a_report_that_moves_a_call_moves_it_in_the_series() -> None:
    late = replace(REPORTED, at_ms=EDGES[0] + 61_000, deployment_id="dep_2")
    early = replace(CALLED, at_ms=EDGES[0] - 1, deployment_id="dep_1")
    for batches in ([[late], [early]], [[late, early]]):
        reports = [[UsageReport(b"a", side, 0) for side in batch] for batch in batches]
        _, series, _ = folded(*reports)
        left = {row: sums for row, sums in series.items() if sums[1]}
        assert {row.deployment_id for row in left} == {"dep_1"}
        assert len(left) == len(BUCKETS)
        assert len(series) == 2 * len(BUCKETS)


def test_the_change_of_a_row_says_when_it_was_last_changed() -> None:
    reports = [
        UsageReport(key, replace(CALLED, at_ms=EDGES[0] + n * 60_000), 1_000 - n)
        for n, key in enumerate((b"a", b"b", b"c"))
    ]
    [change] = fold({}, reports, RULES).rows.values()
    assert isinstance(change, RowChange)
    assert (change.invocations, change.updated_at_ms) == (3, 1_000)
