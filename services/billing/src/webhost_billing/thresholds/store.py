"""Thresholds as facts: which parts of their limits users have reached, in the caller's transaction.

Consumes: what a batch of usage changed, once it is folded. Emits: `period.threshold_reached.v1`.
Guarantees: the facts are written in the transaction of the fold that reaches them, so each part of
a limit is stated once, and nothing is folded without them. A rebuild states none.
On replay (the fold begins again, or after a restore): what is stated already is not stated again.
"""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.events import PeriodThresholdReached
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing.folding import Step
from webhost_billing.periods import store as periods
from webhost_billing.periods.model import Period, evolve
from webhost_billing.periods.store import period_of
from webhost_billing.thresholds import decisions
from webhost_billing.thresholds.decisions import Used

READ_PERIODS = sa.text(
    """
    SELECT d.user_id, d.period_key, a.tier,
        coalesce(p.version, 0) AS version, coalesce(p.reached, '{}') AS reached,
        coalesce(sum(u.requests), 0) AS requests, coalesce(sum(u.llm_tokens), 0) AS tokens,
        coalesce(sum(u.compute_ms), 0) AS compute_ms
    FROM unnest(CAST(:users AS text[]), CAST(:periods AS text[])) AS d (user_id, period_key)
    LEFT JOIN accounts a ON a.user_id = d.user_id
    LEFT JOIN periods p ON (p.user_id, p.period_key) = (d.user_id, d.period_key)
    LEFT JOIN billing_usage u ON (u.generation, u.partition, u.user_id, u.period_key)
        = (:generation, :partition, d.user_id, d.period_key)
    GROUP BY d.user_id, d.period_key, a.tier, p.version, p.reached
    """
)


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
        READ_PERIODS,
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
