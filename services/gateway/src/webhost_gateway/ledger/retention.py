"""Removes what is no longer needed: old calls, keys and answers, past quotas, ended routes."""

import sqlalchemy as sa
from webhost_contracts import ids
from webhost_contracts.periods import day_key, period_key, previous_period
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.periodic import every

from webhost_gateway.ledger.idempotency import ANSWERS_KEPT_MS, CLAIMS_KEPT_MS
from webhost_gateway.routing.model import (
    AGENT_KEPT_MS,
    DEPLOYMENT_KEPT_MS,
    KEY_KEPT_MS,
    RouteTable,
)
from webhost_gateway.tables import (
    idempotency,
    invocations,
    key_quotas,
    quotas,
    routed_agents,
    routed_deployments,
    routed_keys,
    usage_outbox,
)

DAY_MS = 24 * 3600 * 1000
KEPT_MS = 2 * DAY_MS
DAYS_KEPT = 2
EVERY_S = 60.0
BATCH = 5000
ANSWERS_BATCH = 200


class Retention:
    """Removes old rows again and again, and forgets old routes."""

    def __init__(self, database: Database, routes: RouteTable) -> None:
        self._database = database
        self._routes = routes

    async def run(self) -> None:
        """Remove and forget until cancelled."""
        await every(EVERY_S, self._once, "retention")

    async def _once(self) -> None:
        at_ms = now_ms()
        self._routes.forget(at_ms)
        while await remove_calls(self._database, at_ms - KEPT_MS) == BATCH:
            pass
        while await remove_quotas(self._database, period_key(at_ms)) == BATCH:
            pass
        while await remove_key_quotas(self._database, at_ms) == BATCH:
            pass
        await remove_routes(self._database, at_ms)
        while await remove_answers(self._database, at_ms - ANSWERS_KEPT_MS) == ANSWERS_BATCH:
            pass
        for kind, kept_ms in CLAIMS_KEPT_MS.items():
            while await remove_claims(self._database, kind, at_ms - kept_ms) == BATCH:
                pass


async def remove_calls(database: Database, before_ms: int) -> int:
    """Remove a batch of calls that ended before this time; return how many there were.

    A call whose fact is not published yet stays.
    """
    unpublished = sa.select(sa.func.min(usage_outbox.c.oldest_ms)).scalar_subquery()
    # Ids sort by their time, so the primary key finds the oldest.
    before_id = ids.new_id(ids.INVOCATION, before_ms, bytes(ids.ENTROPY_BYTES))
    oldest = (
        sa.select(invocations.c.id)
        .where(
            invocations.c.id < before_id,
            invocations.c.finished_at_ms < sa.func.least(before_ms, unpublished),
        )
        .order_by(invocations.c.id)
        .limit(BATCH)
    )
    return await _remove(database, sa.delete(invocations).where(invocations.c.id.in_(oldest)))


async def remove_quotas(database: Database, current_period: str) -> int:
    """Remove a batch of quotas of periods before the previous one; return how many there were."""
    key = sa.tuple_(quotas.c.user_id, quotas.c.period_key)
    past = (
        sa.select(quotas.c.user_id, quotas.c.period_key)
        .where(
            quotas.c.period_key < previous_period(current_period),
            quotas.c.in_flight == 0,
        )
        .order_by(quotas.c.user_id, quotas.c.period_key)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    return await _remove(database, sa.delete(quotas).where(key.in_(past)))


async def remove_key_quotas(database: Database, at_ms: int) -> int:
    """Remove a batch of API keys' quotas of past periods; return how many there were.

    Those of the previous month, and of the last DAYS_KEPT days, stay for calls under way.
    """
    month, day = previous_period(period_key(at_ms)), day_key(at_ms - DAYS_KEPT * DAY_MS)
    period = key_quotas.c.period_key
    is_day = sa.func.length(period) == len(day)
    key = sa.tuple_(key_quotas.c.key_id, period)
    past = (
        sa.select(key_quotas.c.key_id, period)
        .where(sa.case((is_day, period < day), else_=period < month))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    return await _remove(database, sa.delete(key_quotas).where(key.in_(past)))


async def remove_routes(database: Database, at_ms: int) -> None:
    """Remove the rows of what the route table forgets as of this time."""
    deleted, ended = routed_agents.c.deleted_at_ms, routed_deployments.c.ended_at_ms
    await _remove(database, sa.delete(routed_agents).where(deleted < at_ms - AGENT_KEPT_MS))
    await _remove(database, sa.delete(routed_deployments).where(ended < at_ms - DEPLOYMENT_KEPT_MS))
    keys_ended = sa.func.least(routed_keys.c.revoked_at_ms, routed_keys.c.expires_at_ms)
    await _remove(database, sa.delete(routed_keys).where(keys_ended < at_ms - KEY_KEPT_MS))


async def remove_answers(database: Database, before_ms: int) -> int:
    """Remove a batch of answers kept since before this time; return how many there were."""
    old = (
        sa.select(*idempotency.primary_key)
        .where(idempotency.c.response.is_not(None), idempotency.c.finished_at_ms < before_ms)
        .order_by(idempotency.c.finished_at_ms)
        .limit(ANSWERS_BATCH)
        .with_for_update(skip_locked=True)
    )
    statement = sa.update(idempotency).where(sa.tuple_(*idempotency.primary_key).in_(old))
    return await _remove(database, statement.values(response=None))


async def remove_claims(database: Database, kind: str, before_ms: int) -> int:
    """Remove a batch of keys claimed before this time; return how many there were."""
    old = (
        sa.select(*idempotency.primary_key)
        .where(idempotency.c.kind == kind, idempotency.c.created_at_ms < before_ms)
        .order_by(idempotency.c.created_at_ms)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    key = sa.tuple_(*idempotency.primary_key)
    return await _remove(database, sa.delete(idempotency).where(key.in_(old)))


async def _remove(database: Database, statement: sa.Delete | sa.Update) -> int:
    async with database.transaction() as connection:
        return (await connection.execute(statement)).rowcount
