"""One api for all tests that leave it as it is; one of its own for those that kill it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from webhost_kit.bus.connection import connect

from tests.integration.api.harness import Harness, User
from tests.support.infra import Nats, Postgres
from tests.support.issuer import running_issuer


@asynccontextmanager
async def running_harness(
    nats: Nats, postgres: Postgres, directory: Path
) -> AsyncIterator[Harness]:
    dsn, nats_url = postgres.create_database(), nats.new_account()
    bus = await connect(nats_url, "test")
    try:
        async with running_issuer() as issuer, aiohttp.ClientSession() as client:
            harness = Harness(dsn, nats_url, bus, issuer, directory, client)
            try:
                await harness.start()
                yield harness
            finally:
                await harness.close()
    finally:
        await bus.close()
        postgres.drop_database(dsn)


@pytest.fixture(scope="session")
async def harness(
    nats_server: Nats, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    async with running_harness(nats_server, postgres_server, tmp_path_factory.mktemp("api")) as it:
        yield it


@pytest.fixture
async def own_harness(
    nats_server: Nats, postgres_server: Postgres, tmp_path: Path
) -> AsyncIterator[Harness]:
    async with running_harness(nats_server, postgres_server, tmp_path) as it:
        yield it


@pytest.fixture
async def user(harness: Harness) -> AsyncIterator[User]:
    it = harness.user()
    yield it
    await it.http.aclose()
