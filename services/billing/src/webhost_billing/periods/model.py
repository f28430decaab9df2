"""Pure: a period of a user's, as billing's own facts about it tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from webhost_contracts import ids
from webhost_contracts.events import Envelope, Event, PeriodSealed, PeriodThresholdReached
from webhost_contracts.events.period import SealedUsage

from webhost_billing.seals.decisions import Seal
from webhost_billing.thresholds.decisions import Threshold


@dataclass(frozen=True)
class Period:
    """What was stated about one user's usage of one month. Before the first fact: version 0."""

    user_id: str
    period_key: str
    version: int = 0
    seal: PeriodSealed | None = None
    reached: frozenset[Threshold] = frozenset()

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return ids.period_of(self.user_id, self.period_key)


def evolve(period: Period, envelope: Envelope, event: Event) -> Period:
    """Return what a fact makes of the period."""
    match event:
        case PeriodSealed():
            return replace(period, version=envelope.version, seal=event)
        case PeriodThresholdReached():
            threshold = Threshold(event.limit_type, event.limit, event.percent)
            return replace(period, version=envelope.version, reached=period.reached | {threshold})
        case _:
            raise TypeError(f"not a fact about a period: {event.type_name()}")


def close(
    period: Period, usage: dict[str, SealedUsage], at: Seal, stream_created_at: str
) -> Sequence[PeriodSealed]:
    """Return the fact that closes the period; none where it was stated before."""
    if period.seal is not None:
        return []
    return [
        PeriodSealed(
            period_key=period.period_key,
            by_runtime=usage,
            invocations=sum(one.invocations for one in usage.values()),
            partition=at.partition,
            sequence=at.sequence,
            stream_created_at=stream_created_at,
        )
    ]
