"""Facts about one user's usage in one period, stated by billing.

The aggregate's id is `<userId>.<YYYY-MM>`; `ids.period_of` makes it.
"""

from typing import Literal

from webhost_contracts import subjects
from webhost_contracts.events.base import Event


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
