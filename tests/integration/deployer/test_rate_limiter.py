"""The API's limit holds for all deployers together."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from webhost_deployer.budget import calls_for, purpose
from webhost_deployer.cloudflare import rate_limiter
from webhost_deployer.cloudflare.rate_limiter import (
    CAPACITY,
    CONTENDED,
    RESERVED,
    USER_CAPACITY,
    RateLimiter,
)
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    upgrade(database_url, "webhost_deployer")
    replicas = [Database(database_url) for _ in range(2)]
    yield replicas
    for replica in replicas:
        await replica.close()


@pytest.mark.accept("8.api-limit")
async def test_two_replicas_share_one_bucket(databases: list[Database]) -> None:
    limits = [RateLimiter(database, "token") for database in databases]
    taken = 0

    async def spend(limit: RateLimiter) -> None:
        with calls_for(None, removes=True):
            await spend_all(limit)

    async def spend_all(limit: RateLimiter) -> None:
        nonlocal taken
        while True:
            await limit.acquire()
            taken += 1

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await asyncio.gather(*(spend(limit) for limit in limits for _ in range(3)))
    most = rate_limiter.CAPACITY + (loop.time() - began) * rate_limiter.REFILL_PER_S
    assert rate_limiter.CAPACITY <= taken <= most + 1


async def test_the_limit_stays_below_cloudflares() -> None:
    assert rate_limiter.CAPACITY + rate_limiter.REFILL_PER_S * 300 < 1200


async def spent(limit: RateLimiter, user_id: str | None, *, removes: bool = False) -> int:
    """How many calls are let through at once for this purpose, before one has to wait."""
    count = 0
    with calls_for(user_id, removes=removes):
        while await limit._taken(purpose()):
            count += 1
    return count


@pytest.mark.accept("6.C2.budget")
async def test_a_user_gets_a_share_while_calls_are_few_and_removals_a_reserve(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "REFILL_PER_S", 0.0)
    monkeypatch.setattr(rate_limiter, "USER_REFILL_PER_S", 0.0)
    limit, other = (RateLimiter(database, "token") for database in databases)
    # Alone, a user may exceed the share until calls become few, and no further.
    assert await spent(limit, "usr_loops") == CAPACITY - CONTENDED + 1
    assert await spent(other, "usr_loops", removes=True) == 0
    # Another user finds the share of one, and a third what is not reserved.
    assert await spent(other, "usr_other") == USER_CAPACITY
    assert await spent(other, "usr_third") == CONTENDED - 1 - USER_CAPACITY - RESERVED
    assert await spent(limit, None) == 0
    assert await spent(other, "usr_other", removes=True) == 0
    assert await spent(limit, None, removes=True) == RESERVED


async def test_unused_buckets_of_users_are_removed(databases: list[Database]) -> None:
    limit = RateLimiter(databases[0], "token")
    for user in ("usr_old", "usr_young"):
        with calls_for(user, removes=False):
            await limit.acquire()
    async with databases[0].transaction() as connection:
        await connection.exec_driver_sql(
            "UPDATE rate_limits SET at = at - interval '2 hours'"
            " WHERE name <> 'token user usr_young'"
        )
    await limit.remove_unused()
    async with databases[0].transaction() as connection:
        left = await connection.exec_driver_sql("SELECT name FROM rate_limits ORDER BY name")
        assert list(left.scalars()) == ["token", "token user usr_young"]
