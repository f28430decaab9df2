"""Pure: what a batch of facts changes, given what was known before it.

The result of a stream does not depend on where its batches end: every change to a row is the
sum of what each fact changed, also where a later fact of the same batch takes it back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from webhost_contracts.rpc import Counters

from webhost_billing.charging import Charge, PriceBook, UsageRow, add, charge, subtract
from webhost_billing.model import Report, UsageReport, merge


@dataclass
class RowChange:
    """What is added to one row of usage. `reports` is how many invocations are charged to it."""

    counters: Counters = Counters()  # noqa: RUF009 - it is frozen
    reports: int = 0
    updated_at_ms: int = 0


@dataclass
class Changes:
    """What a batch changes: reports as they are now, and additions to rows of usage."""

    reports: dict[bytes, Report] = field(default_factory=dict[bytes, Report])
    charges: dict[bytes, Charge] = field(default_factory=dict[bytes, Charge])
    providers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    rows: dict[UsageRow, RowChange] = field(default_factory=dict[UsageRow, RowChange])
    invocations: int = 0
    """How many the gateway spoke of for the first time."""
    complete: int = 0
    """How many are now known from both sides, and were not before."""


def fold(
    known: Mapping[bytes, Report], usage_reports: Iterable[UsageReport], prices: PriceBook
) -> Changes:
    """Return what these facts, in the stream's order, change."""
    changes = Changes()
    for fact in usage_reports:
        before = changes.reports.get(fact.key) or known.get(fact.key)
        after = merge(before, fact.report)
        if after is before:
            continue
        new = charge(after, prices)
        if before is not None:
            old = changes.charges.get(fact.key) or charge(before, prices)
            row = _row(changes, old.row, fact.occurred_at_ms)
            row.counters = subtract(row.counters, old.counters)
            row.reports -= 1
        row = _row(changes, new.row, fact.occurred_at_ms)
        row.counters = add(row.counters, new.counters)
        row.reports += 1
        changes.invocations += fact.report.gateway is not None
        changes.complete += after.source == "both"
        changes.reports[fact.key] = after
        changes.charges[fact.key] = new
        if fact.provider is not None:
            changes.providers[fact.key] = fact.provider
    return changes


def _row(changes: Changes, row: UsageRow, at_ms: int) -> RowChange:
    change = changes.rows.get(row)
    if change is None:
        change = changes.rows[row] = RowChange()
    change.updated_at_ms = max(change.updated_at_ms, at_ms)
    return change
