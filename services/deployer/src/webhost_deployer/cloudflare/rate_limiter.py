"""Cloudflare's limit on API calls, kept across all deployers by one token bucket in Postgres.

Guarantees: at most CAPACITY + REFILL_PER_S * 300 calls begin in any five minutes, whatever the
number of replicas: below the 1,200 above which Cloudflare blocks every call.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from webhost_kit.database.engine import Database

from webhost_deployer.tables import rate_limits

CAPACITY = 100.0
REFILL_PER_S = 1000 / 300
POLL_INTERVAL_S = 0.3


class RateLimiter:
    """The bucket of one API token, by name."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def acquire(self) -> None:
        """Return when one call may be made. Raises Unavailable when Postgres is away."""
        while not await self._taken():  # noqa: ASYNC110 - the bucket is in another process
            await asyncio.sleep(POLL_INTERVAL_S)

    async def block(self, seconds: int) -> None:
        """Stop all deployers' calls for this long, since Cloudflare reported too many."""
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.update(rate_limits)
                .where(rate_limits.c.name == self._name)
                .values(tokens=1 - seconds * REFILL_PER_S, at=sa.func.clock_timestamp())
            )

    async def _taken(self) -> bool:
        now = sa.func.clock_timestamp()
        statement = insert(rate_limits).values(name=self._name, tokens=CAPACITY - 1, at=now)
        at = sa.func.greatest(statement.excluded.at, rate_limits.c.at)
        refill = sa.extract("epoch", at - rate_limits.c.at) * REFILL_PER_S
        there = sa.func.least(CAPACITY, rate_limits.c.tokens + refill)
        take = statement.on_conflict_do_update(
            index_elements=["name"], set_={"tokens": there - 1, "at": at}, where=there >= 1
        ).returning(rate_limits.c.tokens)
        async with self._database.transaction() as connection:
            return (await connection.execute(take)).scalar_one_or_none() is not None
