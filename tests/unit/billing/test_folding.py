"""What a stream comes to does not depend on where its batches end, nor on when rules change."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_billing.charging import Rules, UsageRow, add, charge, load_prices
from webhost_billing.folding import Charged, RowChange, fold
from webhost_billing.model import Invocation, UsageReport
from webhost_contracts.usage_rpc import Counters

from tests.unit.billing.test_charging import BOOK, RULES, by_gateway, by_worker

OTHER_RULES = Rules(load_prices(), 5_000)

reports_of_three = st.lists(
    st.builds(
        UsageReport,
        key=st.sampled_from([b"a", b"b", b"c"]),
        invocation=by_gateway | by_worker,
        occurred_at_ms=st.integers(0, 10**12),
        provider=st.none(),
    ),
    max_size=12,
)

Folded = tuple[dict[bytes, Charged], dict[UsageRow, RowChange]]


def folded(*batches: tuple[list[UsageReport], Rules]) -> Folded:
    known: dict[bytes, Charged] = {}
    rows: dict[UsageRow, RowChange] = {}
    for batch, rules in batches:
        changes = fold(known, batch, rules)
        known |= changes.charged
        for row, change in changes.rows.items():
            before = rows.get(row, RowChange())
            rows[row] = RowChange(
                add(before.counters, change.counters),
                before.invocations + change.invocations,
                max(before.updated_at_ms, change.updated_at_ms),
            )
    return known, rows


def sums(charged: dict[bytes, Charged]) -> dict[UsageRow, Counters]:
    """What the rows must hold: each invocation's charge, once."""
    rows: dict[UsageRow, Counters] = {}
    for one in charged.values():
        rows[one.charge.row] = add(rows.get(one.charge.row, Counters()), one.charge.counters)
    return rows


@given(reports_of_three, st.lists(st.integers(0, 12), max_size=4))
def test_batches_may_end_anywhere(reports: list[UsageReport], cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(reports)) for cut in cuts), len(reports)]
    batches = [(reports[start:end], RULES) for start, end in itertools.pairwise(ends)]
    assert folded(*batches) == folded((reports, RULES))


@pytest.mark.accept("A8")
@given(reports_of_three, st.integers(0, 12))
def test_new_rules_take_back_what_was_charged_by_the_old_ones(
    reports: list[UsageReport], cut: int
) -> None:
    before, after = reports[:cut], reports[cut:]
    charged, rows = folded((before, OTHER_RULES), (after, RULES))
    filled = {row: change.counters for row, change in rows.items() if change.invocations}
    assert filled == sums(charged)
    assert all(change.counters == Counters() for row, change in rows.items() if row not in filled)
    changed = fold(folded((before, OTHER_RULES))[0], after, RULES).charged
    for key, one in charged.items():
        rules = RULES if key in changed else OTHER_RULES
        assert one.charge == charge(one.invocation, rules)


@given(by_worker, by_gateway)
def test_the_cap_of_a_call_whose_gateway_died_is_that_of_its_second_report(
    worker: Invocation, gateway: Invocation
) -> None:
    assert worker.worker is not None
    assert gateway.gateway is not None
    worker = replace(worker, worker=replace(worker.worker, compute_ms=10**6))
    gateway = replace(gateway, gateway=replace(gateway.gateway, wall_ms=None))
    first, second = (UsageReport(b"a", side, 0) for side in (worker, gateway))
    [one] = folded(([first], OTHER_RULES), ([second], Rules(BOOK, 7_000)))[0].values()
    assert one.charge.counters.compute_ms == 8_000


@given(reports_of_three)
def test_rows_hold_what_the_reports_come_to(reports: list[UsageReport]) -> None:
    charged, rows = folded((reports, RULES))
    assert sum(change.invocations for change in rows.values()) == len(charged)
    empty = [change for change in rows.values() if change.invocations == 0]
    assert all(change.counters == Counters() for change in empty)


@given(reports_of_three)
def test_the_share_without_telemetry_is_counted(reports: list[UsageReport]) -> None:
    changes = fold({}, reports, RULES)
    known = [charged.invocation for charged in changes.charged.values()]
    assert changes.invocations == sum(one.gateway is not None for one in known)
    assert changes.complete == sum(one.source == "both" for one in known)
