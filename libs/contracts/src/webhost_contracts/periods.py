"""The billing period: a calendar month in UTC, written `YYYY-MM`, of the years 2000 to 2099."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

PATTERN = "^20[0-9]{2}-(0[1-9]|1[0-2])$"
HOUR_MS = 3_600_000
_EPOCH = date(1970, 1, 1).toordinal()


def is_period(text: str) -> bool:
    """Say whether this names a period."""
    return re.fullmatch(PATTERN, text) is not None


def period_key(at_ms: int) -> str:
    """Return the period that holds this instant (Unix milliseconds)."""
    return _period_of_hour(at_ms // HOUR_MS)


def day_key(at_ms: int) -> str:
    """Return the day in UTC that holds this instant, `YYYY-MM-DD`."""
    return _day_of_hour(at_ms // HOUR_MS)


@lru_cache(maxsize=1024)
def previous_period(period_key: str) -> str:
    """Return the period before this one."""
    return (date.fromisoformat(f"{period_key}-01") - timedelta(days=1)).strftime("%Y-%m")


def next_period(period_key: str) -> str:
    """Return the period behind this one."""
    return (date.fromisoformat(f"{period_key}-01") + timedelta(days=31)).strftime("%Y-%m")


def start_ms(period_key: str) -> int:
    """Return the first instant of this period (Unix milliseconds)."""
    return (date.fromisoformat(f"{period_key}-01").toordinal() - _EPOCH) * 24 * HOUR_MS


def span_ms(period_key: str) -> tuple[int, int]:
    """Return when a period of the years 1 to 9998 starts, and when the next one does."""
    return start_ms(period_key), start_ms(next_period(period_key))


@lru_cache(maxsize=4096)
def _period_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


@lru_cache(maxsize=4096)
def _day_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%d")
