"""Periods as rows: loaded for a decision, saved with the facts that it comes to."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import Event
from webhost_kit.eventsourcing.store import Decided, EventMetadata, append_each

from webhost_billing.periods.model import Period, evolve
from webhost_billing.tables import periods
from webhost_billing.thresholds.decisions import Threshold

ACTOR = "service:billing"


async def load(connection: AsyncConnection, user_id: str, key: str) -> Period:
    """Return a period, without what it was sealed with."""
    query = sa.select(periods).where(periods.c.user_id == user_id, periods.c.period_key == key)
    row = (await connection.execute(query)).one_or_none()
    return Period(user_id, key) if row is None else period_of(row)


def period_of(row: Any) -> Period:
    """Return the period of a row that has its columns."""
    reached = frozenset(map(_threshold, row.reached))
    return Period(row.user_id, row.period_key, row.version, reached=reached)


async def append(
    connection: AsyncConnection, decided: Sequence[tuple[Period, Sequence[Event]]]
) -> Sequence[Period]:
    """Append the facts behind each period, and save what they make of it; return that.

    In few statements, however many periods there are. Raises VersionConflict.
    """
    envelopes = iter(
        await append_each(
            connection,
            [
                Decided(period.id, period.user_id, period.version + number, event)
                for period, events in decided
                for number, event in enumerate(events)
            ],
            EventMetadata(actor=ACTOR),
        )
    )
    after: list[Period] = []
    for period, events in decided:
        for event in events:
            period = evolve(period, next(envelopes), event)
        after.append(period)
    await save(connection, after)
    return after


async def save(connection: AsyncConnection, changed: Sequence[Period]) -> None:
    """Write periods; that one was sealed is never taken back."""
    if not changed:
        return
    statement = insert(periods)
    new = statement.excluded
    sealed_at = sa.func.coalesce(new.sealed_at_sequence, periods.c.sealed_at_sequence)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id", "period_key"],
            set_={
                "version": new.version,
                "reached": new.reached,
                "sealed_at_sequence": sealed_at,
            },
        ),
        [
            {
                "user_id": period.user_id,
                "period_key": period.period_key,
                "version": period.version,
                "reached": sorted(map(_text, period.reached)),
                "sealed_at_sequence": period.seal.sequence if period.seal else None,
            }
            for period in changed
        ],
    )


def _text(threshold: Threshold) -> str:
    return f"{threshold.limit_type}/{threshold.limit}/{threshold.percent}"


def _threshold(text: str) -> Threshold:
    limit_type, limit, percent = text.split("/")
    return Threshold(limit_type, int(limit), int(percent))
