"""Thresholds as facts: which parts of their limits users have reached, in the caller's transaction.

Consumes: what a batch of usage changed, once it is folded. Emits: `period.threshold_reached.v1`.
Guarantees: the facts are written in the transaction of the fold that reaches them, so each part of
a limit is stated once, and nothing is folded without them. A rebuild states none.
On replay (the fold begins again, or after a restore): what is stated already is not stated again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.events import PeriodThresholdReached
from webhost_kit.eventsourcing.aggregates import Aggregate
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.store import EventMetadata

from webhost_billing import periods, statements, thresholds
from webhost_billing.folding import Step
from webhost_billing.periods import Period
from webhost_billing.tables import periods as periods_table
from webhost_billing.thresholds import Threshold, Used

ACTOR = "service:billing"


async def state(
    connection: AsyncConnection,
    generation: int,
    partition: int,
    steps: Iterable[Step],
    tiers: Mapping[str, Entitlements],
) -> None:
    """State what was reached by these steps, which this generation holds already."""
    courses = thresholds.courses(steps)
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
    for row in found:
        period, now = _period(row), Used(int(row.requests), int(row.tokens), int(row.compute_ms))
        tier = known_tier(tiers, row.tier)
        most = thresholds.at_most(now, courses[row.user_id, row.period_key])
        facts = thresholds.reached(period.period_key, period.reached, most, tier, tiers[tier])
        await _PERIODS.append(connection, period, facts, EventMetadata(actor=ACTOR))


async def recover(connection: AsyncConnection, fact: Fact, event: PeriodThresholdReached) -> None:
    """Take back what was stated, which the database lacked after a restore."""
    user_id = fact.envelope.user_id
    table = periods_table.c
    query = sa.select(periods_table).where(
        table.user_id == user_id, table.period_key == event.period_key
    )
    row = (await connection.execute(query)).one_or_none()
    period = Period(user_id, event.period_key) if row is None else _period(row)
    await _save(connection, period, periods.evolve(period, fact.envelope, event))


async def _save(connection: AsyncConnection, _: Period, after: Period) -> None:
    values = {"version": after.version, "reached": sorted(map(_text, after.reached))}
    await connection.execute(
        insert(periods_table)
        .values(user_id=after.user_id, period_key=after.period_key, **values)
        .on_conflict_do_update(index_elements=["user_id", "period_key"], set_=values)
    )


_PERIODS = Aggregate(periods.evolve, _save)


def _period(row: Any) -> Period:
    reached = frozenset(map(_threshold, row.reached))
    return Period(row.user_id, row.period_key, row.version, reached=reached)


def _text(threshold: Threshold) -> str:
    return f"{threshold.limit_type}/{threshold.limit}/{threshold.percent}"


def _threshold(text: str) -> Threshold:
    limit_type, limit, percent = text.split("/")
    return Threshold(limit_type, int(limit), int(percent))
