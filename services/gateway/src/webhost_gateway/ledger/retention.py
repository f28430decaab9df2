"""Removes the rows of invocations that nobody needs any more: published, and two days old."""

import asyncio
import secrets

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from webhost_contracts import ids
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)

KEPT_MS = 2 * 24 * 3600 * 1000
EVERY_S = 60.0
BATCH = 5000


class Retention:
    """Removes old rows again and again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Remove old rows for as long as the process lives."""
        while True:
            try:
                while await remove_old(self._database, now_ms() - KEPT_MS) == BATCH:
                    pass
            except (Unavailable, DBAPIError) as error:
                log.warning("retention postponed", error=str(error).partition("\n")[0])
            # Replicas spread out.
            await asyncio.sleep(EVERY_S * (0.5 + secrets.randbelow(1000) / 1000))


async def remove_old(database: Database, before_ms: int) -> int:
    """Remove one batch of rows finished before this time; return how many there were."""
    async with database.transaction() as connection:
        result = await connection.execute(
            REMOVE,
            {
                # Ids sort by their time, so the primary key finds the oldest.
                "before_id": ids.new_id(ids.INVOCATION, before_ms, bytes(ids.ENTROPY_BYTES)),
                "before_ms": before_ms,
                "batch": BATCH,
            },
        )
        return result.rowcount


REMOVE = text(
    """
    DELETE FROM invocations WHERE id IN (
        SELECT id FROM invocations i
        WHERE id < :before_id AND finished_at_ms < :before_ms
            AND NOT EXISTS (SELECT FROM outbox WHERE ordering_key = i.id)
        ORDER BY id LIMIT :batch
    )
    """
)
