"""The API's limit holds for all deployers together."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from webhost_deployer import call_limit
from webhost_deployer.call_limit import CallLimit
from webhost_kit.database import Database
from webhost_kit.migrations import upgrade


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    upgrade(database_url, "webhost_deployer")
    replicas = [Database(database_url) for _ in range(2)]
    yield replicas
    for replica in replicas:
        await replica.close()


async def test_two_replicas_share_one_bucket(databases: list[Database]) -> None:
    limits = [CallLimit(database, "token") for database in databases]
    taken = 0

    async def spend(limit: CallLimit) -> None:
        nonlocal taken
        while True:
            await limit.take()
            taken += 1

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await asyncio.gather(*(spend(limit) for limit in limits for _ in range(3)))
    most = call_limit.CAPACITY + (loop.time() - began) * call_limit.REFILL_PER_S
    assert call_limit.CAPACITY <= taken <= most + 1


async def test_the_limit_stays_below_cloudflares() -> None:
    assert call_limit.CAPACITY + call_limit.REFILL_PER_S * 300 < 1200
