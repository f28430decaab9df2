"""A deployer as a real process, between a real NATS, Postgres and local edge."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from webhost_kit.bus.connection import connect

from tests.integration.deployer.harness import Harness
from tests.support.edge import Edge, start_edge


@pytest.fixture(scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with start_edge(tmp_path_factory.mktemp("edge"), EDGE_API_RATE_LIMIT="100000") as running:
        yield running


@pytest.fixture
async def harness(
    edge: Edge, nats_account: str, database_url: str, tmp_path: Path
) -> AsyncIterator[Harness]:
    """An installation without a deployer: the test starts as many as it needs."""
    bus = await connect(nats_account, "test")
    harness = Harness(edge, nats_account, database_url, tmp_path, bus)
    await harness.listen()
    try:
        yield harness
    finally:
        await harness.close()
        await bus.close()
