"""Buckets of time that usage is summed in: minutes, hours and days, in UTC."""

from typing import Literal, get_args

Bucket = Literal["minute", "hour", "day"]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)

DAY_MS = 24 * 3_600_000
SIZE_MS: dict[Bucket, int] = {"minute": 60_000, "hour": 3_600_000, "day": DAY_MS}

KEPT_DAYS: dict[Bucket, int] = {"minute": 35, "hour": 400}
"""For how long buckets can be read; days for ever. Minutes as long as a report may be late, so that
their last correction can be seen; hours as long as the stream holds what they are made of.
"""

MOST = 1_500
"""The most buckets of one answer: a day of minutes, two months of hours, four years of days."""


def start_of(bucket: Bucket, at_ms: int) -> int:
    """Return when the bucket that holds this instant starts (Unix milliseconds)."""
    return at_ms - at_ms % SIZE_MS[bucket]


def readable_from(bucket: Bucket, now_ms: int) -> int:
    """Return the time from which on these buckets are complete. What was before may be gone."""
    days = KEPT_DAYS.get(bucket)
    return 0 if days is None else max(start_of("day", now_ms) - days * DAY_MS, 0)


def kept_from(bucket: Bucket, now_ms: int) -> int:
    """Return the time before which these buckets are removed.

    That is a day before they can no longer be read: clocks need not agree.
    """
    return max(readable_from(bucket, now_ms) - DAY_MS, 0)
