"""A deployer as a real process, between a real NATS, Postgres and local edge."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from webhost_kit.bus.connection import connect
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_local.ports import free_port

from tests.integration.api.harness import Harness as Api
from tests.integration.deployer.faulty_cloudflare import FaultyCloudflare, faulty_cloudflare
from tests.integration.deployer.harness import Harness
from tests.integration.deployer.saga_cases import Ground, hurry
from tests.integration.deployer.what_is_left import Others
from tests.support.edge import Edge, start_edge
from tests.support.harness import running
from tests.support.infra import Nats, Postgres
from tests.support.issuer import running_issuer


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


@pytest.fixture
async def api(postgres_server: Postgres, nats_account: str, tmp_path: Path) -> AsyncIterator[Api]:
    """The real api, on the bus of the harness."""
    dsn = postgres_server.create_database()
    role_dsn = postgres_server.role_of(dsn)
    async with (
        running_issuer() as issuer,
        running(
            Api, dsn, nats_account, issuer=issuer, directory=tmp_path, role_dsn=role_dsn
        ) as api,
    ):
        await api.start()
        yield api
    postgres_server.drop_database(dsn)


# For sagas in the test's own process, each with its own line to the edge.

GROUNDS = ["account", "namespace"]
on_both_grounds = pytest.mark.parametrize("ground", GROUNDS, indirect=True, scope="module")
on_every_ground = pytest.mark.parametrize(
    "ground", [*GROUNDS, *(f"{it} on workers.dev" for it in GROUNDS)], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
async def own_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """An edge that soon ends what is not called any more: there are many Workers."""
    async with start_edge(
        tmp_path_factory.mktemp("edge"), EDGE_API_RATE_LIMIT="1000000", EDGE_IDLE_SECONDS="5"
    ) as running:
        yield running


@pytest.fixture(scope="module")
async def faulty(own_edge: Edge) -> AsyncIterator[FaultyCloudflare]:
    async with faulty_cloudflare(own_edge) as proxy:
        yield proxy


@pytest.fixture(scope="module")
async def ground(
    request: pytest.FixtureRequest,
    hurried: None,
    own_edge: Edge,
    faulty: FaultyCloudflare,
    postgres_server: Postgres,
    nats_server: Nats,
) -> AsyncIterator[Ground]:
    dsn = postgres_server.create_database()
    upgrade(dsn, "webhost_deployer")
    database, bus = Database(dsn, pool_size=16), await connect(nats_server.new_account(), "test")
    layout, _, on_workers_dev = request.param.partition(" on ")
    namespace = f"customers-{secrets.token_hex(4)}" if layout == "namespace" else None
    yield Ground(own_edge, faulty, database, bus, namespace, bool(on_workers_dev))
    await bus.close()
    await database.close()
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="module")
def hurried() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield


@pytest.fixture
async def others(ground: Ground) -> AsyncIterator[Others]:
    """Others' scripts, which must be the same when the test has ended."""
    others = Others(ground)
    await others.put()
    yield others
    await others.check()
