"""Counters as they stand in rows."""

from typing import Any

from webhost_contracts.usage_rpc import Counters

from webhost_billing.tables import COUNTERS


def counters_of(row: Any, prefix: str = "") -> Counters:
    """Return a row's counters, whose columns have this prefix."""
    return Counters(**{name: int(getattr(row, prefix + name)) for name in COUNTERS})
