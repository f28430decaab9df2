"""A deployer as a real process, between a real NATS, Postgres and local edge."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from webhost_local.ports import free_port

from tests.integration.deployer.harness import Harness
from tests.support.edge import Edge, start_edge
from tests.support.harness import running


@pytest.fixture(scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with start_edge(
        tmp_path_factory.mktemp("edge"),
        EDGE_API_RATE_LIMIT="100000",
        EDGE_PRIVATE_ADDRESSES=f"127.0.0.1:{REPORTS_PORT}",
    ) as running:
        yield running
        assert running.process.returncode is None, "the edge died while tests used it"


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str | None:
    """The dispatch namespace that is deployed into: none, unless the test asks for one."""
    return getattr(request, "param", None) and f"customers-{secrets.token_hex(4)}"


REPORTS_PORT = free_port()
"""Where Workers report, and the only address on this machine that they reach."""

on_both_layouts = pytest.mark.parametrize(
    "namespace", [None, "customers"], indirect=True, ids=["account", "namespace"]
)


@pytest.fixture
async def harness(
    edge: Edge, nats_account: str, database_url: str, tmp_path: Path, namespace: str | None
) -> AsyncIterator[Harness]:
    """An installation without a deployer: the test starts as many as it needs."""
    fields = {"edge": edge, "directory": tmp_path, "namespace": namespace}
    async with running(Harness, database_url, nats_account, **fields) as harness:
        await harness.listen()
        yield harness
