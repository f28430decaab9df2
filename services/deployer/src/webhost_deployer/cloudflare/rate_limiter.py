"""Cloudflare's limit on API calls, kept across all deployers by token buckets in Postgres.

Guarantees: at most CAPACITY + REFILL_PER_S * 300 calls begin in any five minutes, whatever the
number of replicas: below the 1,200 above which Cloudflare blocks every call. The last RESERVED
calls are for removals. While fewer than CONTENDED are left, a user gets no more than a share, of
which the bucket of the user's own keeps count; while more are left, it may be exceeded.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.database.engine import Database
from webhost_kit.periodic import every

from webhost_deployer.budget import Purpose, purpose
from webhost_deployer.tables import rate_limits

CAPACITY = 100.0
REFILL_PER_S = 1000 / 300
CONTENDED = 50.0
RESERVED = 20.0
USER_CAPACITY = 25.0
USER_REFILL_PER_S = REFILL_PER_S / 4
FORGOTTEN_S = 3600.0
"""Longer than an empty bucket needs to be full again."""
POLL_INTERVAL_S = 0.3

_NOW = sa.func.clock_timestamp()


class RateLimiter:
    """The bucket of one API token, by name, and those of its users."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def run(self) -> None:
        """Remove, every FORGOTTEN_S, the users' buckets that are full because nobody used them."""
        await every(FORGOTTEN_S, self.remove_unused, "unused buckets")

    async def acquire(self) -> None:
        """Return when one call may be made for the purpose that `budget` names.

        Raises Unavailable when Postgres is away.
        """
        wanted = purpose()
        while not await self._taken(wanted):  # noqa: ASYNC110 - the bucket is in another process
            await asyncio.sleep(POLL_INTERVAL_S)

    async def block(self, seconds: int) -> None:
        """Stop all deployers' calls for this long, since Cloudflare reported too many."""
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.update(rate_limits)
                .where(rate_limits.c.name == self._name)
                .values(tokens=1 - seconds * REFILL_PER_S, at=_NOW)
            )

    async def remove_unused(self) -> None:
        """Remove the users' buckets that were not touched for FORGOTTEN_S."""
        old = _NOW - sa.func.make_interval(0, 0, 0, 0, 0, 0, FORGOTTEN_S)
        users = rate_limits.c.name.startswith(self._user_bucket(""), autoescape=True)
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(rate_limits).where(users, rate_limits.c.at < old))

    async def _taken(self, wanted: Purpose) -> bool:
        async with self._database.transaction() as connection:
            there = await _refilled(connection, self._name, CAPACITY, REFILL_PER_S)
            if there < 1 + (0 if wanted.removes else RESERVED):
                return False
            if wanted.user_id is not None:
                name = self._user_bucket(wanted.user_id)
                share = await _refilled(connection, name, USER_CAPACITY, USER_REFILL_PER_S)
                if share < 1 and there < CONTENDED:
                    return False
                await _set(connection, name, max(0.0, share - 1))
            await _set(connection, self._name, there - 1)
            return True

    def _user_bucket(self, user_id: str) -> str:
        return f"{self._name} user {user_id}"


async def _refilled(connection: AsyncConnection, name: str, capacity: float, per_s: float) -> float:
    """Return what is in the bucket now, its row written and locked; a new one is full."""
    new = insert(rate_limits).values(name=name, tokens=capacity, at=_NOW)
    at = sa.func.greatest(new.excluded.at, rate_limits.c.at)
    refill = sa.extract("epoch", at - rate_limits.c.at) * per_s
    refilled = new.on_conflict_do_update(
        index_elements=["name"],
        set_={"tokens": sa.func.least(capacity, rate_limits.c.tokens + refill), "at": at},
    )
    return (await connection.execute(refilled.returning(rate_limits.c.tokens))).scalar_one()


async def _set(connection: AsyncConnection, name: str, tokens: float) -> None:
    statement = sa.update(rate_limits).where(rate_limits.c.name == name).values(tokens=tokens)
    await connection.execute(statement)
