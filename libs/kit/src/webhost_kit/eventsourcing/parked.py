"""Parked events: those that a projection could not fold, kept in its service's own Postgres.

Guarantees: an event is parked in the transaction that moves the checkpoint past it; later versions
of the same aggregate are parked behind it, so that order within an aggregate stays.
On replay: an event that is folded again leaves the table in the same transaction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.facts import Fact, Unfoldable

BEHIND = "behind a parked event of its aggregate"


def parked_table(metadata: sa.MetaData) -> sa.Table:
    """Add the table of parked events to a service's metadata."""
    return sa.Table(
        "parked_events",
        metadata,
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text),
        sa.Column("version", sa.Integer),
        sa.Column("recorded_at_ms", sa.BigInteger, nullable=False),
        sa.Column("parked_at_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


_table = parked_table(sa.MetaData())


@dataclass(frozen=True)
class ParkedEvent:
    """One row. `body` is the envelope, or what stood in its place."""

    projection: str
    sequence: int
    index: int
    subject: str
    aggregate_id: str | None
    version: int | None
    recorded_at_ms: int
    parked_at_ms: int
    reason: str
    body: bytes


async def park(
    connection: AsyncConnection, projection: str, unfoldable: Iterable[Unfoldable]
) -> None:
    """Park these. One that is already parked stays as it is."""
    rows = [
        {
            "projection": projection,
            "sequence": one.sequence,
            "index": one.index,
            "subject": one.subject,
            "aggregate_id": one.aggregate_id,
            "version": one.version,
            "recorded_at_ms": one.recorded_at_ms,
            "parked_at_ms": now_ms(),
            "reason": one.reason.replace("\x00", "?"),
            "body": one.body,
        }
        for one in unfoldable
    ]
    if rows:
        await connection.execute(insert(_table).values(rows).on_conflict_do_nothing())


async def parked_aggregates(connection: AsyncConnection, projection: str) -> set[str]:
    """Return the aggregates that have parked events."""
    found = await connection.execute(
        sa.select(_table.c.aggregate_id)
        .where(_table.c.projection == projection, _table.c.aggregate_id.is_not(None))
        .distinct()
    )
    return set(found.scalars())


async def count_parked(connection: AsyncConnection, projection: str) -> int:
    """Return how many events of this projection are parked."""
    query = sa.select(sa.func.count()).select_from(_table).where(_table.c.projection == projection)
    return int((await connection.execute(query)).scalar_one())


async def list_parked(
    connection: AsyncConnection, projection: str, *, sequence: int | None = None, limit: int = 1000
) -> list[ParkedEvent]:
    """Return what is parked, of one message or of all, in the stream's order."""
    query = sa.select(_table).order_by(_table.c.sequence, _table.c.index)
    query = query.where(_table.c.projection == projection)
    if sequence is not None:
        query = query.where(_table.c.sequence == sequence)
    found = await connection.execute(query.limit(limit))
    return [ParkedEvent(**row) for row in found.mappings()]


async def remove(connection: AsyncConnection, events: Sequence[ParkedEvent]) -> None:
    """Remove events that were folded."""
    for event in events:
        await connection.execute(
            sa.delete(_table).where(
                _table.c.projection == event.projection,
                _table.c.sequence == event.sequence,
                _table.c.index == event.index,
            )
        )


def behind(fact: Fact, body: bytes) -> Unfoldable:
    """Return a fact that waits for an earlier one of its aggregate."""
    return unfolded(fact, body, BEHIND)


def unfolded(fact: Fact, body: bytes, reason: str) -> Unfoldable:
    """Return a fact that could be read but not folded."""
    return Unfoldable(
        fact.sequence,
        fact.recorded_at_ms,
        fact.index,
        reason[:500],
        body,
        fact.envelope.aggregate_id,
        fact.envelope.version,
        fact.subject,
    )
