"""One api for all tests that leave it as it is; one of its own for those that kill it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from webhost_kit.bus import connect

from tests.integration.api.stage import Stage, User
from tests.support.infra import Nats, Postgres
from tests.support.issuer import running_issuer


@asynccontextmanager
async def running_stage(nats: Nats, postgres: Postgres, directory: Path) -> AsyncIterator[Stage]:
    dsn, nats_url = postgres.create_database(), nats.new_account()
    bus = await connect(nats_url, "test")
    try:
        async with running_issuer() as issuer:
            stage = Stage(dsn, nats_url, bus, issuer, directory)
            try:
                await stage.start()
                yield stage
            finally:
                await stage.close()
    finally:
        await bus.close()
        postgres.drop_database(dsn)


@pytest.fixture(scope="session")
async def stage(
    nats_server: Nats, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    async with running_stage(nats_server, postgres_server, tmp_path_factory.mktemp("api")) as it:
        yield it


@pytest.fixture
async def own_stage(
    nats_server: Nats, postgres_server: Postgres, tmp_path: Path
) -> AsyncIterator[Stage]:
    async with running_stage(nats_server, postgres_server, tmp_path) as it:
        yield it


@pytest.fixture
async def user(stage: Stage) -> AsyncIterator[User]:
    it = stage.user()
    yield it
    await it.http.aclose()
