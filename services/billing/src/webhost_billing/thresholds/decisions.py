"""Pure: which parts of a limit a user has reached in a period.

What counts is the most that was charged after any report of a batch, not what is charged at its
end: a later report may lower it. So the facts of a stream do not depend on where its batches end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import PeriodThresholdReached
from webhost_contracts.usage_rpc import Counters

from webhost_billing.charging import Charge
from webhost_billing.folding import Step

PERCENTS = (50, 80, 100)
LIMITS: tuple[Literal["requests", "tokens", "computeMs"], ...] = ("requests", "tokens", "computeMs")


class Threshold(NamedTuple):
    """A part of a limit, as it is remembered once it was stated."""

    limit_type: str
    limit: int
    percent: int


class Used(NamedTuple):
    """What counts against the limits, in the order of LIMITS."""

    requests: int = 0
    tokens: int = 0
    compute_ms: int = 0


@dataclass(slots=True)
class Course:
    """How a user's use of a period changed over a batch: by its end, and at the most."""

    requests: int = 0
    tokens: int = 0
    compute_ms: int = 0
    most_requests: int = 0
    most_tokens: int = 0
    most_compute_ms: int = 0

    def add(self, counters: Counters, sign: int) -> None:
        """Take one charge in, or back."""
        self.requests += sign * counters.requests
        self.tokens += sign * counters.llm_tokens
        self.compute_ms += sign * counters.compute_ms

    def mark(self) -> None:
        """Take note of what is charged now."""
        self.most_requests = max(self.most_requests, self.requests)
        self.most_tokens = max(self.most_tokens, self.tokens)
        self.most_compute_ms = max(self.most_compute_ms, self.compute_ms)


def courses(steps: Iterable[Step]) -> dict[tuple[str, str], Course]:
    """Return the course of each user and period that these steps, in order, changed."""
    found: dict[tuple[str, str], Course] = {}
    for step in steps:
        if step.before is not None:
            before = step.before.charge
            _course(found, before).add(before.counters, -1)
        after = step.after.charge
        course = _course(found, after)
        course.add(after.counters, 1)
        course.mark()
    return found


def reached(
    period_key: str,
    stated: frozenset[Threshold],
    used: Used,
    tier: str,
    entitlements: Entitlements,
) -> list[PeriodThresholdReached]:
    """Return what has to be stated of a period in which this much was used."""
    limits = (entitlements.requests, entitlements.tokens, entitlements.compute_ms)
    return [
        PeriodThresholdReached(
            period_key=period_key, limit_type=name, percent=percent, limit=limit, tier=tier
        )
        for name, amount, limit in zip(LIMITS, used, limits, strict=True)
        if limit is not None
        for percent in PERCENTS
        if amount * 100 >= limit * percent and Threshold(name, limit, percent) not in stated
    ]


def at_most(now: Used, course: Course) -> Used:
    """Return the most that was used within a batch, given what is used now, at its end."""
    return Used(
        now.requests - course.requests + course.most_requests,
        now.tokens - course.tokens + course.most_tokens,
        now.compute_ms - course.compute_ms + course.most_compute_ms,
    )


def _course(found: dict[tuple[str, str], Course], charge: Charge) -> Course:
    key = charge.row.user_id, charge.row.period_key
    course = found.get(key)
    if course is None:
        course = found[key] = Course()
    return course
