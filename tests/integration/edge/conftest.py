"""One edge for the tests that do not need their own."""

from collections.abc import AsyncIterator

import pytest

from tests.support.edge import Edge, start_edge


@pytest.fixture(scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with start_edge(tmp_path_factory.mktemp("edge")) as running:
        yield running
