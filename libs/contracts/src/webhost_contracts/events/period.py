"""What billing states about a user's usage of one period (a month in UTC).

The aggregate's id is `<userId>.<YYYY-MM>`; `ids.period_of` makes it.
"""

from typing import Literal

from webhost_contracts import subjects
from webhost_contracts.events.base import Event
from webhost_contracts.wire import Wire


class SealedUsage(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """What was charged under one runtime provider. The cost is in picodollars, exact."""

    invocations: int
    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    cost_picodollars: int
    updated_at_ms: int


class PeriodEvent(Event, frozen=True, kw_only=True):
    """What all of them share."""

    period_key: str

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the one subject of all periods of this user's."""
        return subjects.event(user_id, self.kind(), user_id)


class PeriodThresholdReached(
    PeriodEvent, frozen=True, kw_only=True, tag="period.threshold_reached.v1"
):
    """The user has used this part of what the tier allows in the period.

    Stated once for each limit's value: what is allowed later may state it again.
    """

    limit_type: Literal["requests", "tokens", "computeMs"]
    percent: int
    limit: int
    tier: str


class PeriodSealed(PeriodEvent, frozen=True, kw_only=True, tag="period.sealed.v1"):
    """The usage of a period is final; kept for ever.

    Reports of the period count up to `sequence` of USAGE in the user's partition, on the stream
    that was created at `stream_created_at`. Whatever comes behind it is too late.
    """

    by_runtime: dict[str, SealedUsage]
    invocations: int
    partition: int
    sequence: int
    stream_created_at: str
