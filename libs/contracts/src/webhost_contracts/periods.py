"""The billing period: a calendar month in UTC, written `YYYY-MM`."""

from datetime import UTC, datetime


def period_key(at_ms: int) -> str:
    """Return the period that holds this instant (Unix milliseconds)."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")
