"""Pure: the minute, hour and day in which a charge counts.

That of the call's admission, in UTC; where only the Worker has reported, that of its report. Hours
are sums of minutes, days of hours, and the rows of `billing_usage` of days.
"""

import msgspec
from webhost_contracts.buckets import Bucket, start_of
from webhost_contracts.periods import period_key

from webhost_billing.charging import UsageRow
from webhost_billing.model import Invocation


class SeriesRow(msgspec.Struct, frozen=True, order=True):
    """Which row of the series a charge belongs to."""

    bucket: Bucket
    start_ms: int
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str


def minute_of(invocation: Invocation) -> SeriesRow:
    """Return the minute in which an invocation's charge counts."""
    return SeriesRow(
        "minute",
        start_of("minute", invocation.at_ms),
        invocation.user_id,
        invocation.agent_id,
        invocation.deployment_id,
        invocation.runtime_provider,
    )


def hour_of(row: SeriesRow) -> SeriesRow:
    """Return the hour that holds a minute."""
    return _wider(row, "hour")


def day_of(row: SeriesRow) -> SeriesRow:
    """Return the day that holds an hour."""
    return _wider(row, "day")


def usage_of(row: SeriesRow) -> UsageRow:
    """Return the row of usage that a bucket is part of."""
    return UsageRow(row.user_id, period_key(row.start_ms), row.runtime_provider)


def _wider(row: SeriesRow, bucket: Bucket) -> SeriesRow:
    return SeriesRow(
        bucket,
        start_of(bucket, row.start_ms),
        row.user_id,
        row.agent_id,
        row.deployment_id,
        row.runtime_provider,
    )
