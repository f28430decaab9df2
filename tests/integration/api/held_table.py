"""Requests that meet at one table: none of them writes there before all have read."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import sqlalchemy as sa

from tests.integration.api.harness import Harness
from tests.support.deadline import eventually

WAITING = """
SELECT count(*) >= :number FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@asynccontextmanager
async def held_table(harness: Harness, table: str, *, until_waiting: int) -> AsyncGenerator[None]:
    """Nothing is written to the table until so many wait, for it or for what holds them up."""
    async with harness.database.transaction() as holder:
        await holder.execute(sa.text(f"LOCK TABLE {table} IN SHARE MODE"))
        yield

        async def all_wait() -> bool:
            return await harness.scalar(WAITING, number=until_waiting)

        await eventually(all_wait, f"{until_waiting} to wait")
