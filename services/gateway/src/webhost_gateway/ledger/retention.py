"""Removes what is no longer needed: rows of old calls, of past quotas, of routes that ended."""

import asyncio
import secrets

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from webhost_contracts import ids
from webhost_contracts.periods import period_key
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

from webhost_gateway import decisions
from webhost_gateway.routing.model import AGENT_KEPT_MS, DEPLOYMENT_KEPT_MS, RouteTable

log = structlog.get_logger(__name__)

KEPT_MS = 2 * 24 * 3600 * 1000
EVERY_S = 60.0
BATCH = 5000


class Retention:
    """Removes old rows again and again, and forgets old routes."""

    def __init__(self, database: Database, routes: RouteTable) -> None:
        self._database = database
        self._routes = routes

    async def run(self) -> None:
        """Remove and forget until cancelled."""
        while True:
            at_ms = now_ms()
            self._routes.forget(at_ms)
            try:
                while await remove_calls(self._database, at_ms - KEPT_MS) == BATCH:
                    pass
                while await remove_quotas(self._database, period_key(at_ms)) == BATCH:
                    pass
                await remove_routes(self._database, at_ms)
            except (Unavailable, DBAPIError) as error:
                log.warning("retention postponed", error=str(error).partition("\n")[0])
            # Replicas spread out.
            await asyncio.sleep(EVERY_S * (0.5 + secrets.randbelow(1000) / 1000))


async def remove_calls(database: Database, before_ms: int) -> int:
    """Remove a batch of calls that ended before this time; return how many there were.

    A call whose fact is not published yet stays.
    """
    async with database.transaction() as connection:
        result = await connection.execute(
            REMOVE_CALLS,
            {
                # Ids sort by their time, so the primary key finds the oldest.
                "before_id": ids.new_id(ids.INVOCATION, before_ms, bytes(ids.ENTROPY_BYTES)),
                "before_ms": before_ms,
                "batch": BATCH,
            },
        )
        return result.rowcount


async def remove_quotas(database: Database, current_period: str) -> int:
    """Remove a batch of quotas of periods before the previous one; return how many there were."""
    async with database.transaction() as connection:
        previous = decisions.previous_period(current_period)
        result = await connection.execute(REMOVE_QUOTAS, {"previous": previous, "batch": BATCH})
        return result.rowcount


async def remove_routes(database: Database, at_ms: int) -> None:
    """Remove the rows of what the route table forgets as of this time."""
    async with database.transaction() as connection:
        await connection.execute(REMOVE_AGENTS, {"before_ms": at_ms - AGENT_KEPT_MS})
        await connection.execute(REMOVE_DEPLOYMENTS, {"before_ms": at_ms - DEPLOYMENT_KEPT_MS})


REMOVE_CALLS = text(
    """
    DELETE FROM invocations WHERE id IN (
        SELECT id FROM invocations
        WHERE id < :before_id AND finished_at_ms < least(
            CAST(:before_ms AS bigint), (SELECT min(oldest_ms) FROM usage_outbox)
        )
        ORDER BY id LIMIT :batch
    )
    """
)

REMOVE_QUOTAS = text(
    """
    DELETE FROM quotas WHERE (user_id, period_key) IN (
        SELECT user_id, period_key FROM quotas
        WHERE period_key < :previous AND in_flight = 0
        ORDER BY user_id, period_key LIMIT :batch FOR UPDATE SKIP LOCKED
    )
    """
)

REMOVE_AGENTS = text("DELETE FROM routed_agents WHERE deleted_at_ms < :before_ms")
REMOVE_DEPLOYMENTS = text("DELETE FROM routed_deployments WHERE ended_at_ms < :before_ms")
