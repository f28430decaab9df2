"""What billing answers from the series: usage over time, and by agent and day."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import buckets, subjects
from webhost_contracts.buckets import Bucket
from webhost_contracts.periods import span_ms
from webhost_contracts.usage_rpc import SeriesPoint, SeriesReply, SeriesRequest

from webhost_billing.counters import counters_of
from webhost_billing.generations import LIVE
from webhost_billing.series.invoice import AgentDay
from webhost_billing.tables import COUNTERS, usage_series

MOST_LINES = 2_500
"""The most lines by agent of an invoice: a message on the bus is at most 1 MiB."""


async def series(connection: AsyncConnection, request: SeriesRequest) -> SeriesReply:
    """Return a user's usage by minute, hour or day; at most as many as one answer holds."""
    table = usage_series.c
    query = sa.select(table.start_ms, *_sums(table)).where(
        *_within(request.user_id, request.bucket, request.from_ms, request.to_ms)
    )
    for column, wanted in (
        (table.agent_id, request.agent_id),
        (table.deployment_id, request.deployment_id),
        (table.runtime_provider, request.runtime_provider),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    in_order = query.group_by(table.start_ms).order_by(table.start_ms)
    found = await connection.execute(in_order.limit(buckets.MOST))
    return SeriesReply(
        points=tuple(SeriesPoint(start_ms=row.start_ms, counters=counters_of(row)) for row in found)
    )


async def agent_days(
    connection: AsyncConnection, user_id: str, period_key: str
) -> tuple[list[AgentDay], int]:
    """Return what each agent used on each day of a period, and how many agents are left out.

    Agents that cost more have lines before others. Where MOST_LINES do not hold all, those that are
    left out are one sum for each day.
    """
    table = usage_series.c
    by_day = (
        sa.select(table.start_ms, table.agent_id, table.runtime_provider, *_sums(table))
        .where(*_within(user_id, "day", *span_ms(period_key)))
        .group_by(table.start_ms, table.agent_id, table.runtime_provider)
        .having(sa.func.sum(table.invocations) > 0)
        .cte("by_day")
    )
    day = by_day.c
    cost = sa.func.sum(day.cost_picodollars)
    lines = sa.func.sum(sa.func.count()).over(order_by=(cost.desc(), day.agent_id))
    by_agent = (
        sa.select(day.agent_id, (lines <= MOST_LINES).label("has_lines"))
        .group_by(day.agent_id)
        .cte("by_agent")
    )
    agent = by_agent.c
    left_out = sa.select(sa.func.count()).select_from(by_agent).where(~agent.has_lines)
    named = sa.case((agent.has_lines, day.agent_id)).label("named")
    found = await connection.execute(
        sa.select(
            named,
            day.start_ms,
            day.runtime_provider,
            left_out.scalar_subquery().label("left_out"),
            *_sums(day),
        )
        .join_from(by_day, by_agent, agent.agent_id == day.agent_id)
        .group_by(named, day.start_ms, day.runtime_provider)
    )
    rows = found.all()
    days = [
        AgentDay(row.start_ms, row.named, row.runtime_provider, counters_of(row)) for row in rows
    ]
    return days, rows[0].left_out if rows else 0


def _within(user_id: str, bucket: Bucket, from_ms: int, to_ms: int) -> tuple[Any, ...]:
    table = usage_series.c
    return (
        table.generation == LIVE,
        table.partition == subjects.partition_of(user_id),
        table.user_id == user_id,
        table.bucket == bucket,
        table.start_ms >= from_ms,
        table.start_ms < to_ms,
    )


def _sums(columns: Any) -> list[sa.Label[Any]]:
    return [sa.func.sum(columns[name]).label(name) for name in COUNTERS]
