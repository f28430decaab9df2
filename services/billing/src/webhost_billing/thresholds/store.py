"""Thresholds as facts: which parts of their limits users have reached, in the caller's transaction.

Consumes: what a batch of usage changed, once it is folded. Emits: `period.threshold_reached.v1`.
Guarantees: the facts are written in the transaction of the fold that reaches them, so each part of
a limit is stated once, and nothing is folded without them. A rebuild states none.
On replay (the fold begins again, or after a restore): what is stated already is not stated again.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.events import PeriodThresholdReached
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing import statements
from webhost_billing.folding import Step
from webhost_billing.periods import store as periods
from webhost_billing.periods.model import Period, evolve
from webhost_billing.periods.store import period_of
from webhost_billing.thresholds import decisions
from webhost_billing.thresholds.decisions import Used


async def state(
    connection: AsyncConnection,
    generation: int,
    partition: int,
    steps: Iterable[Step],
    tiers: Mapping[str, Entitlements],
) -> None:
    """State what was reached by these steps, which this generation holds already."""
    courses = decisions.courses(steps)
    if not courses:
        return
    found = await connection.execute(
        statements.READ_PERIODS,
        {
            "generation": generation,
            "partition": partition,
            "users": [user for user, _ in courses],
            "periods": [period for _, period in courses],
        },
    )
    decided: list[tuple[Period, Sequence[PeriodThresholdReached]]] = []
    for row in found:
        period, now = period_of(row), Used(int(row.requests), int(row.tokens), int(row.compute_ms))
        tier = known_tier(tiers, row.tier)
        most = decisions.at_most(now, courses[row.user_id, row.period_key])
        facts = decisions.reached(period.period_key, period.reached, most, tier, tiers[tier])
        if facts:
            decided.append((period, facts))
    await periods.append(connection, decided)


async def recover(connection: AsyncConnection, fact: Fact, event: PeriodThresholdReached) -> None:
    """Take back what was stated, which the database lacked after a restore."""
    period = await periods.load(connection, fact.envelope.user_id, event.period_key)
    await periods.save(connection, [evolve(period, fact.envelope, event)])
