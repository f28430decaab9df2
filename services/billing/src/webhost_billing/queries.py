"""What billing answers from its rows, always of the live generation."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.rpc import (
    Counters,
    RecentEventsReply,
    RecentEventsRequest,
    UsageEvent,
    UsageReply,
    UsageRequest,
)

from webhost_billing.charging import add
from webhost_billing.decisions import Account

MOST_EVENTS = 100


async def usage(connection: AsyncConnection, request: UsageRequest) -> UsageReply:
    """Return a user's usage of one period; zeros where there is none."""
    found = await connection.execute(
        _USAGE, {"user_id": request.user_id, "period_key": request.period_key}
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
    found = await connection.execute(
        _RECENT,
        {
            "user_id": request.user_id,
            "agent_id": request.agent_id,
            "since_ms": request.since_ms,
            "errors_only": request.errors_only,
            "most": min(max(request.limit, 1), MOST_EVENTS),
        },
    )
    return RecentEventsReply(events=tuple(_event(row) for row in found))


async def account(connection: AsyncConnection, user_id: str) -> Account:
    """Return what was decided about a user so far."""
    row = (await connection.execute(_ACCOUNT, {"user_id": user_id})).one_or_none()
    return Account() if row is None else Account(row.version, row.tier)


async def put_account(connection: AsyncConnection, user_id: str, state: Account) -> None:
    """Write what was decided about a user."""
    await connection.execute(
        _PUT_ACCOUNT, {"user_id": user_id, "version": state.version, "tier": state.tier}
    )


def counters_of(row: Any, prefix: str = "") -> Counters:
    """Return a row's counters, whose columns have this prefix."""
    return Counters(
        **{name: int(getattr(row, prefix + name)) for name in Counters.__struct_fields__}
    )


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
        error_class=row.error_class,
        provider=None if row.provider is None else msgspec.json.decode(bytes(row.provider)),
    )


# A row that every charge has moved away from holds no report, and is not there for a reader.
_USAGE = sa.text(
    """
    SELECT u.* FROM billing_usage u
    JOIN generations g ON g.scope = 'all' AND g.live = u.generation
    WHERE u.user_id = :user_id AND u.period_key = :period_key AND u.reports > 0
    ORDER BY u.runtime_provider
    """
)
_RECENT = sa.text(
    """
    SELECT e.* FROM usage_events e
    JOIN generations g ON g.scope = 'all' AND g.live = e.generation
    WHERE e.user_id = :user_id AND e.at_ms >= :since_ms
        AND (CAST(:agent_id AS text) IS NULL OR e.agent_id = :agent_id)
        AND (NOT :errors_only OR e.errors > 0)
    ORDER BY e.at_ms DESC, e.key DESC
    LIMIT :most
    """
)
_ACCOUNT = sa.text("SELECT version, tier FROM accounts WHERE user_id = :user_id")
_PUT_ACCOUNT = sa.text(
    """
    INSERT INTO accounts (user_id, version, tier) VALUES (:user_id, :version, :tier)
    ON CONFLICT (user_id) DO UPDATE SET version = excluded.version, tier = excluded.tier
    """
)
