"""The API's limit holds for all deployers together."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from webhost_deployer.cloudflare import rate_limiter
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
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
