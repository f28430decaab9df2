"""The billing period: a calendar month in UTC, written `YYYY-MM`."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

HOUR_MS = 3_600_000


def period_key(at_ms: int) -> str:
    """Return the period that holds this instant (Unix milliseconds)."""
    return _period_of_hour(at_ms // HOUR_MS)


def day_key(at_ms: int) -> str:
    """Return the day in UTC that holds this instant, `YYYY-MM-DD`."""
    return _day_of_hour(at_ms // HOUR_MS)


def previous_period(period_key: str) -> str:
    """Return the period before this one."""
    return (date.fromisoformat(f"{period_key}-01") - timedelta(days=1)).strftime("%Y-%m")


def next_period(period_key: str) -> str:
    """Return the period behind this one."""
    return (date.fromisoformat(f"{period_key}-01") + timedelta(days=31)).strftime("%Y-%m")


def start_ms(period_key: str) -> int:
    """Return the first instant of this period (Unix milliseconds)."""
    start = datetime.fromisoformat(f"{period_key}-01T00:00:00+00:00")
    return int(start.timestamp()) * 1000


@lru_cache(maxsize=4096)
def _period_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


@lru_cache(maxsize=4096)
def _day_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%d")
