"""One api for all tests that leave it as it is; one of its own for those that kill it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.api.harness import Harness, User
from tests.support.harness import running
from tests.support.infra import Nats, Postgres
from tests.support.issuer import running_issuer


@asynccontextmanager
async def running_harness(
    nats: Nats, postgres: Postgres, directory: Path
) -> AsyncIterator[Harness]:
    dsn = postgres.create_database()
    try:
        async with (
            running_issuer() as issuer,
            running(
                Harness,
                dsn,
                nats.new_account(),
                issuer=issuer,
                directory=directory,
                role_dsn=postgres.role_of(dsn),
            ) as it,
        ):
            await it.start()
            yield it
    finally:
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
