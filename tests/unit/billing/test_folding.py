"""What a stream comes to does not depend on where its batches end."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from webhost_billing.charging import PriceBook, UsageRow, add, load_prices
from webhost_billing.folding import RowChange, fold
from webhost_billing.model import Report, UsageReport
from webhost_contracts.rpc import Counters

from tests.unit.billing.test_charging import by_gateway, by_worker

PRICES: PriceBook = load_prices()

usage_reports = st.lists(
    st.builds(
        UsageReport,
        key=st.sampled_from([b"a", b"b", b"c"]),
        report=by_gateway | by_worker,
        occurred_at_ms=st.integers(0, 10**12),
        provider=st.none(),
    ),
    max_size=12,
)


def folded(
    batches: list[list[UsageReport]],
) -> tuple[dict[bytes, Report], dict[UsageRow, RowChange]]:
    known: dict[bytes, Report] = {}
    rows: dict[UsageRow, RowChange] = {}
    for batch in batches:
        changes = fold(known, batch, PRICES)
        known |= changes.reports
        for row, change in changes.rows.items():
            before = rows.get(row, RowChange())
            rows[row] = RowChange(
                add(before.counters, change.counters),
                before.reports + change.reports,
                max(before.updated_at_ms, change.updated_at_ms),
            )
    return known, rows


@given(usage_reports, st.lists(st.integers(0, 12), max_size=4))
def test_batches_may_end_anywhere(facts: list[UsageReport], cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(facts)) for cut in cuts), len(facts)]
    batches = [facts[start:end] for start, end in itertools.pairwise(ends)]
    assert folded(batches) == folded([facts])


@given(usage_reports)
def test_rows_hold_what_the_reports_come_to(facts: list[UsageReport]) -> None:
    reports, rows = folded([facts])
    assert sum(change.reports for change in rows.values()) == len(reports)
    empty = [change for change in rows.values() if change.reports == 0]
    assert all(change.counters == Counters() for change in empty)


@given(usage_reports)
def test_the_share_without_telemetry_is_counted(facts: list[UsageReport]) -> None:
    changes = fold({}, facts, PRICES)
    reports = changes.reports.values()
    assert changes.invocations == sum(report.gateway is not None for report in reports)
    assert changes.complete == sum(report.source == "both" for report in reports)
