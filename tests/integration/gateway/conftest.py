"""A harness for the tests that only ask, and one of its own for each test that breaks things."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration.gateway.harness import Gateway, Harness
from tests.integration.gateway.worker import Worker, echo
from tests.support.harness import running
from tests.support.infra import Nats, Postgres
from tests.support.issuer import running_issuer
from tests.support.serving import serving

FIRST_BYTE_S = 1.5
OVERALL_S = 3.0
HEARTBEAT_S = 0.3


@asynccontextmanager
async def running_harness(dsn: str, nats_url: str, directory: Path) -> AsyncGenerator[Harness]:
    key = Ed25519PrivateKey.generate()
    worker = Worker(key.public_key())
    async with (
        running_issuer() as issuer,
        serving(worker) as worker_url,
        running(
            Harness,
            dsn,
            nats_url,
            issuer=issuer,
            worker=worker,
            worker_url=worker_url,
            key=key,
            directory=directory,
        ) as harness,
    ):
        yield harness


@pytest.fixture
async def own_harness(
    database_url: str, nats_account: str, tmp_path: Path
) -> AsyncIterator[Harness]:
    async with running_harness(database_url, nats_account, tmp_path) as harness:
        yield harness


@pytest.fixture(scope="session")
async def shared_harness(
    postgres_server: Postgres, nats_server: Nats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    dsn = postgres_server.create_database()
    directory = tmp_path_factory.mktemp("gateway")
    async with running_harness(dsn, nats_server.new_account(), directory) as harness:
        await harness.start(
            FIRST_BYTE_TIMEOUT_S=str(FIRST_BYTE_S),
            LONGEST_CALL_S=str(OVERALL_S),
            HEARTBEAT_S=str(HEARTBEAT_S),
        )
        yield harness
    postgres_server.drop_database(dsn)


@pytest.fixture
def harness(shared_harness: Harness) -> Harness:
    """The shared harness, its Worker answering as the template does."""
    shared_harness.worker.behaviour = echo
    shared_harness.worker.calls.clear()
    return shared_harness


@pytest.fixture
def gateway(harness: Harness) -> Gateway:
    """The gateway on the shared harness; it has short timeouts."""
    return harness.gateways[0]
