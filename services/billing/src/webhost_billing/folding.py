"""Pure: what a batch of facts changes, given what was known before it.

The result of a stream does not depend on where its batches end: every change to a row is the
sum of what each fact changed, even if a later fact of the same batch reverses it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from webhost_contracts.rpc import Counters

from webhost_billing.charging import Charge, Rules, UsageRow, add, charge, subtract
from webhost_billing.model import Invocation, UsageReport, merge


@dataclass(frozen=True)
class Charged:
    """An invocation as known so far, and its charge."""

    invocation: Invocation
    charge: Charge


@dataclass(frozen=True)
class Step:
    """One report that changed an invocation: as it was known before, and since."""

    before: Charged | None
    after: Charged


@dataclass
class RowChange:
    """What is added to one row of usage. `invocations` is how many are charged to it."""

    counters: Counters = Counters()  # noqa: RUF009 - it is frozen
    invocations: int = 0
    updated_at_ms: int = 0


@dataclass
class Changes:
    """What a batch changes: invocations as they are now, and additions to rows of usage."""

    charged: dict[bytes, Charged] = field(default_factory=dict[bytes, Charged])
    providers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    rows: dict[UsageRow, RowChange] = field(default_factory=dict[UsageRow, RowChange])
    steps: list[Step] = field(default_factory=list[Step])
    """What changed, report by report, in the stream's order."""
    invocations: int = 0
    """How many the gateway reported for the first time."""
    complete: int = 0
    """How many are now known from both sides, and were not before."""


def fold(
    known: Mapping[bytes, Charged], usage_reports: Iterable[UsageReport], rules: Rules
) -> Changes:
    """Return what these reports, in the stream's order, change."""
    changes = Changes()
    for report in usage_reports:
        before = changes.charged.get(report.key) or known.get(report.key)
        merged = merge(before.invocation if before else None, report.invocation)
        if before is not None:
            if merged is before.invocation:
                continue
            row = _row(changes, before.charge.row, report.occurred_at_ms)
            row.counters = subtract(row.counters, before.charge.counters)
            row.invocations -= 1
        after = changes.charged[report.key] = Charged(merged, charge(merged, rules))
        changes.steps.append(Step(before, after))
        row = _row(changes, after.charge.row, report.occurred_at_ms)
        row.counters = add(row.counters, after.charge.counters)
        row.invocations += 1
        changes.invocations += report.invocation.gateway is not None
        changes.complete += merged.source == "both"
        if report.provider is not None:
            changes.providers[report.key] = report.provider
    return changes


def _row(changes: Changes, row: UsageRow, at_ms: int) -> RowChange:
    change = changes.rows.get(row)
    if change is None:
        change = changes.rows[row] = RowChange()
    change.updated_at_ms = max(change.updated_at_ms, at_ms)
    return change
