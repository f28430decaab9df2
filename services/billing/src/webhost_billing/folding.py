"""Pure: what a batch of facts changes, given what was known before it.

The result of a stream does not depend on where its batches end: every change to a row is the
sum of what each fact changed, even if a later fact of the same batch reverses it. What is closed
(see `seals`) is by position, so that it does not depend on them either.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import Counters

from webhost_billing.charging import Charge, Rules, UsageRow, add, charge, subtract
from webhost_billing.model import Invocation, UsageReport, merge
from webhost_billing.seals.decisions import NO_SEALS, Seals
from webhost_billing.series.model import SeriesRow, day_of, hour_of, minute_of, usage_of

S = TypeVar("S")


class Charged(msgspec.Struct, frozen=True):
    """An invocation as known so far, and its charge."""

    invocation: Invocation
    charge: Charge


class Step(msgspec.Struct, frozen=True):
    """One report that changed an invocation: as it was known before, and since. `stream_ms` is the
    time of the partition at the report, as far as the batch knows it.
    """

    key: bytes
    stream_ms: int
    before: Charged | None
    after: Charged


@dataclass
class RowChange:
    """What is added to one row. `invocations` is how many are charged to it."""

    counters: Counters = Counters()  # noqa: RUF009 - it is frozen
    invocations: int = 0
    updated_at_ms: int = 0


@dataclass
class Changes:
    """What a batch changes: invocations as they are now, and additions to rows of usage and of the
    series.
    """

    charged: dict[bytes, Charged] = field(default_factory=dict[bytes, Charged])
    providers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    rows: dict[UsageRow, RowChange] = field(default_factory=dict[UsageRow, RowChange])
    series: dict[SeriesRow, RowChange] = field(default_factory=dict[SeriesRow, RowChange])
    invocations: int = 0
    """How many the gateway reported for the first time."""
    complete: int = 0
    """How many are now known from both sides, and were not before."""
    steps: list[Step] = field(default_factory=list[Step])
    """What changed, report by report, in the stream's order."""
    late: list[UsageReport] = field(default_factory=list[UsageReport])
    """Reports of closed periods, which count nowhere."""


def fold(
    known: Mapping[bytes, Charged],
    usage_reports: Iterable[UsageReport],
    rules: Rules,
    seals: Seals = NO_SEALS,
) -> Changes:
    """Return what these reports, in the stream's order, change."""
    changes = Changes()
    minutes: dict[SeriesRow, RowChange] = {}
    for report in usage_reports:
        user_id = report.invocation.user_id
        if seals.close(user_id, period_key(report.invocation.at_ms), report.sequence):
            changes.late.append(report)
            continue
        before = changes.charged.get(report.key) or known.get(report.key)
        if before and seals.close(user_id, before.charge.row.period_key, report.sequence):
            before = None
        merged = merge(before.invocation if before else None, report.invocation)
        if before is not None:
            if merged is before.invocation:
                continue
            row = _row(minutes, before.invocation, report.occurred_at_ms)
            row.counters = subtract(row.counters, before.charge.counters)
            row.invocations -= 1
        after = changes.charged[report.key] = Charged(merged, charge(merged, rules))
        row = _row(minutes, merged, report.occurred_at_ms)
        row.counters = add(row.counters, after.charge.counters)
        row.invocations += 1
        changes.steps.append(Step(report.key, report.stream_ms, before, after))
        changes.invocations += report.invocation.gateway is not None
        changes.complete += merged.source == "both"
        if report.provider is not None:
            changes.providers[report.key] = report.provider
    hours = _summed(minutes, hour_of)
    days = _summed(hours, day_of)
    changes.rows = _summed(days, usage_of)
    changes.series = minutes | hours | days
    return changes


def _row(minutes: dict[SeriesRow, RowChange], invocation: Invocation, at_ms: int) -> RowChange:
    minute = minute_of(invocation)
    change = minutes.get(minute)
    if change is None:
        change = minutes[minute] = RowChange()
    change.updated_at_ms = max(change.updated_at_ms, at_ms)
    return change


def _summed(
    changes: Mapping[SeriesRow, RowChange], into: Callable[[SeriesRow], S]
) -> dict[S, RowChange]:
    sums: dict[S, RowChange] = {}
    for row, change in changes.items():
        key = into(row)
        total = sums.get(key)
        if total is None:
            sums[key] = RowChange(change.counters, change.invocations, change.updated_at_ms)
            continue
        total.counters = add(total.counters, change.counters)
        total.invocations += change.invocations
        total.updated_at_ms = max(total.updated_at_ms, change.updated_at_ms)
    return sums
