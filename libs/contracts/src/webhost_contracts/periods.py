"""The billing period: a calendar month in UTC, written `YYYY-MM`."""

from datetime import UTC, datetime
from functools import lru_cache

HOUR_MS = 3_600_000


def period_key(at_ms: int) -> str:
    """Return the period that holds this instant (Unix milliseconds)."""
    return _period_of_hour(at_ms // HOUR_MS)


@lru_cache(maxsize=4096)
def _period_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")
