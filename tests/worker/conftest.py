"""A local edge with the platform's scripts, in each layout."""

from collections.abc import AsyncIterator

import pytest
from webhost_deployer.cloudflare.egress import Egress
from webhost_local.ports import free_port

from tests.support.edge import start_edge
from tests.support.infra import Postgres
from tests.worker.harness import Harness, running_harness


@pytest.fixture(scope="module", params=["account", "namespace"])
async def harness(
    request: pytest.FixtureRequest,
    postgres_server: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Harness]:
    reports_port = free_port()
    data_dir = tmp_path_factory.mktemp("hostile")
    # Where reports are taken anybody may post, agents too.
    reports = f"127.0.0.1:{reports_port}"
    egress = Egress(default=("*", reports))
    async with (
        start_edge(data_dir, EDGE_API_RATE_LIMIT="100000", EDGE_OPEN_ADDRESSES=reports) as edge,
        running_harness(
            edge, reports_port, postgres_server.create_database(), request.param, egress
        ) as made,
    ):
        yield made
    ids = [report["eventId"] for report in made.reports]
    assert sorted(ids) == sorted(set(ids)), "a call was reported twice"
