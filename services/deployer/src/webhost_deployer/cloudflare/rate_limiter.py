"""Cloudflare's limit on API calls, kept across all deployers by one token bucket in Postgres.

Guarantees: at most CAPACITY + REFILL_PER_S * 300 calls begin in any five minutes, whatever the
number of replicas: below the 1,200 behind which Cloudflare blocks every call.
"""

import asyncio

from sqlalchemy import text
from webhost_kit.database.engine import Database

CAPACITY = 100.0
REFILL_PER_S = 1000 / 300
LOOK_S = 0.3


class RateLimiter:
    """The bucket of one API token, by name."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def take(self) -> None:
        """Return when one call may be made. Raises Unavailable when Postgres is away."""
        while not await self._taken():  # noqa: ASYNC110 - the bucket is in another process
            await asyncio.sleep(LOOK_S)

    async def block(self, seconds: int) -> None:
        """Let no deployer make a call for so long, since Cloudflare said that it was too much."""
        async with self._database.transaction() as connection:
            await connection.execute(
                text(
                    "UPDATE rate_limits SET tokens = 1 - :seconds * :refill,"
                    " at = clock_timestamp() WHERE name = :name"
                ),
                {"name": self._name, "seconds": seconds, "refill": REFILL_PER_S},
            )

    async def _taken(self) -> bool:
        async with self._database.transaction() as connection:
            result = await connection.execute(
                _TAKE, {"name": self._name, "capacity": CAPACITY, "refill": REFILL_PER_S}
            )
            return result.scalar_one_or_none() is not None


_TAKE = text(
    """
    INSERT INTO rate_limits AS l (name, tokens, at)
    VALUES (:name, CAST(:capacity AS double precision) - 1, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET
        tokens = least(:capacity, l.tokens
            + extract(epoch FROM greatest(excluded.at - l.at, interval '0')) * :refill) - 1,
        at = greatest(excluded.at, l.at)
    WHERE least(:capacity, l.tokens
            + extract(epoch FROM greatest(excluded.at - l.at, interval '0')) * :refill) >= 1
    RETURNING tokens
    """
)
