"""What billing answers from its rows, always of the live generation."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import (
    Counters,
    RecentEventsReply,
    RecentEventsRequest,
    UsageEvent,
    UsageReply,
    UsageRequest,
)

from webhost_billing.charging import add
from webhost_billing.counters import counters_of
from webhost_billing.generations import LIVE
from webhost_billing.tables import billing_usage, usage_events

MOST_EVENTS = 100


async def usage(connection: AsyncConnection, request: UsageRequest) -> UsageReply:
    """Return a user's usage of one period; zeros where there is none."""
    table = billing_usage.c
    found = await connection.execute(
        sa.select(billing_usage)
        .where(
            table.generation == LIVE,
            table.partition == subjects.partition_of(request.user_id),
            table.user_id == request.user_id,
            table.period_key == request.period_key,
            table.invocations > 0,
        )
        .order_by(table.runtime_provider)
    )
    by_runtime: dict[str, Counters] = {}
    total, updated_at_ms = Counters(), 0
    for row in found:
        counters = by_runtime[row.runtime_provider] = counters_of(row)
        total = add(total, counters)
        updated_at_ms = max(updated_at_ms, row.updated_at_ms)
    return UsageReply(usage=total, by_runtime=by_runtime, updated_at_ms=updated_at_ms)


async def recent_events(
    connection: AsyncConnection, request: RecentEventsRequest
) -> RecentEventsReply:
    """Return the newest of a user's counted events."""
    found = await connection.execute(newest_events(request))
    return RecentEventsReply(events=tuple(_event(row) for row in found))


def newest_events(request: RecentEventsRequest) -> sa.Select[Any]:
    """Return the query for what is asked; its cost does not grow with the user's other events."""
    table = usage_events.c
    query = sa.select(usage_events).where(
        table.generation == LIVE,
        table.user_id == request.user_id,
        table.at_ms >= request.since_ms,
    )
    if request.agent_id is not None:
        query = query.where(table.agent_id == request.agent_id)
    if request.errors_only:
        # Not a parameter: a prepared plan could not use the index then.
        query = query.where(table.errors > sa.literal_column("0"))
    newest_first = query.order_by(table.at_ms.desc(), table.key.desc())
    return newest_first.limit(min(max(request.limit, 1), MOST_EVENTS))


def _event(row: Any) -> UsageEvent:
    return UsageEvent(
        id=f"use_{bytes(row.key).hex()}",
        user_id=row.user_id,
        agent_id=row.agent_id,
        deployment_id=row.deployment_id,
        runtime_provider=row.runtime_provider,
        timestamp_ms=row.at_ms,
        counters=counters_of(row),
        source=row.source,
        invocation_id=row.invocation_id,
        event_id=row.event_id,
        trace_id=row.trace_id,
        key_id=row.key_id,
        error_class=row.error_class,
        provider=None if row.provider is None else msgspec.json.decode(bytes(row.provider)),
    )
