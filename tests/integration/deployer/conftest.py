"""A deployer as a real process, between a real NATS, Postgres and local edge."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.deployer.harness import Harness
from tests.support.edge import Edge, start_edge
from tests.support.harness import running


@pytest.fixture(scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with start_edge(tmp_path_factory.mktemp("edge"), EDGE_API_RATE_LIMIT="100000") as running:
        yield running
        assert running.process.returncode is None, "the edge died while tests used it"


@pytest.fixture
async def harness(
    edge: Edge, nats_account: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Harness]:
    """An installation without a deployer: the test starts as many as it needs."""
    fields = {"edge": edge, "directory": tmp_path}
    async with running(Harness, database_url, nats_account, **fields) as harness:
        await harness.listen()
        yield harness
