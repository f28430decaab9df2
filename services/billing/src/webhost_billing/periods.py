"""Pure: a period of a user's, as billing's own facts about it tell."""

from dataclasses import dataclass, replace

from webhost_contracts import ids
from webhost_contracts.events import Envelope, Event, PeriodThresholdReached

from webhost_billing.thresholds import Threshold


@dataclass(frozen=True)
class Period:
    """What was stated about one user's usage of one month. Before the first fact: version 0."""

    user_id: str
    period_key: str
    version: int = 0
    reached: frozenset[Threshold] = frozenset()

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return ids.period_of(self.user_id, self.period_key)


def evolve(period: Period, envelope: Envelope, event: Event) -> Period:
    """Return what a fact makes of the period."""
    match event:
        case PeriodThresholdReached():
            threshold = Threshold(event.limit_type, event.limit, event.percent)
            return replace(period, version=envelope.version, reached=period.reached | {threshold})
        case _:
            raise TypeError(f"not a fact about a period: {event.type_name()}")
