"""What agents in a dispatch namespace reach, through the installation's outbound Worker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from webhost_contracts import ids
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.model import Deployment
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.edge import start_edge
from tests.support.infra import Postgres
from tests.worker.harness import Harness, running_harness

FETCHES = """
export default { async invoke(request) {
  const url = request.input.messages.at(-1).content;
  try {
    const response = await fetch(url, { headers: { "X-Agent": "own" } });
    return `${response.status} ${await response.text()}`;
  } catch (error) { return `failed: ${error.message}`; }
} };
"""
CONNECTS = """
import { connect } from "cloudflare:sockets";
export default { async invoke(request) {
  try {
    const socket = connect(request.input.messages.at(-1).content);
    await socket.opened;
    return "connected";
  } catch { return "refused"; }
} };
"""
CLOSED_AGENT = new_id(ids.AGENT, now_ms())
OPEN_AGENT = new_id(ids.AGENT, now_ms())


@dataclass
class Outside:
    """A server that agents may reach, and one that they may not, at private addresses both."""

    harness: Harness
    open: str
    closed: str

    async def answer(self, deployment: Deployment, url: str) -> str:
        """What the agent says of this address."""
        _, answer = await self.harness.call(deployment, url, timeout_ms=10_000)
        assert answer.status == 200, answer
        return msgspec.json.decode(answer.body)["output"]["text"]


@pytest.fixture(scope="module")
async def outside(
    postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outside]:
    reports_port, open_port, closed_port = (free_port() for _ in range(3))
    opened, closed = f"127.0.0.1:{open_port}", f"127.0.0.1:{closed_port}"

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.path} {request.headers['X-Agent']}")

    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://{closed}/")

    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_get("/away", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    for port in (open_port, closed_port):
        await web.TCPSite(runner, "127.0.0.1", port).start()
    egress = Egress(
        default=("*", opened), agents={CLOSED_AGENT: (), OPEN_AGENT: ("a.example", "*.b.example")}
    )
    env = {
        "EDGE_PRIVATE_ADDRESSES": f"127.0.0.1:{reports_port}",
        # What the outbound Worker lets through must be what stops a request here.
        "EDGE_OPEN_ADDRESSES": f"{opened},{closed}",
    }
    try:
        async with (
            start_edge(tmp_path_factory.mktemp("outbound"), **env) as edge,
            running_harness(
                edge, reports_port, postgres_server.create_database(), "namespace", egress
            ) as made,
        ):
            yield Outside(made, opened, closed)
    finally:
        await runner.cleanup()


@pytest.mark.accept("6.A3")
async def test_an_agent_reaches_what_its_list_names(outside: Outside) -> None:
    ordinary = await outside.harness.deploy(FETCHES)
    closed = await outside.harness.deploy(FETCHES, CLOSED_AGENT)
    open_only_to_one = await outside.harness.deploy(FETCHES, OPEN_AGENT)
    address = f"http://{outside.open}/"
    assert await outside.answer(ordinary, address) == "200 / own"
    for refused in (closed, open_only_to_one):
        assert (await outside.answer(refused, address)).startswith("403 ")
    # A public name leads nowhere here, but the outbound Worker is not what says so.
    for deployment, url in ((ordinary, "http://any.example/"), (open_only_to_one, "a.example")):
        name = url if "://" in url else f"https://{url}/"
        assert (await outside.answer(deployment, name)).startswith("502 ")
    for name, refused in (("x.b.example", False), ("b.example", True), ("xb.example", True)):
        said = await outside.answer(open_only_to_one, f"https://{name}/")
        assert said.startswith("403 ") == refused, (name, said)
    refused_name = await outside.answer(open_only_to_one, "https://any.example/")
    assert refused_name.startswith("403 ")
    assert "Agents may not reach any.example." in refused_name


@pytest.mark.accept("6.A3")
async def test_a_private_address_is_refused_under_any_of_its_names(outside: Outside) -> None:
    ordinary = await outside.harness.deploy(FETCHES)
    _, port = outside.closed.split(":")
    names = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]")
    for name in (*names, "a.localhost.", "169.254.169.254", "db.internal"):
        said = await outside.answer(ordinary, f"http://{name}:{port}/")
        assert said.startswith("403 "), (name, said)
    # A redirect is followed by the agent's script, through the outbound Worker.
    assert (await outside.answer(ordinary, f"http://{outside.open}/away")).startswith("403 ")


@pytest.mark.accept("6.A3")
async def test_there_is_no_way_around_it_by_tcp(postgres_server: Postgres, tmp_path: Path) -> None:
    """Nor where the runtime refuses no address, and the rules name this one."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    said: dict[str, str] = {}
    async with server, start_edge(tmp_path / "edge", module="tests.support.open_edge") as edge:
        for layout in ("account", "namespace"):
            database, egress = postgres_server.create_database(), Egress(default=(address,))
            async with running_harness(edge, free_port(), database, layout, egress) as made:
                connects = await made.deploy(CONNECTS)
                said[layout] = await Outside(made, address, "").answer(connects, address)
    # On a plain account there is no outbound Worker in the way.
    assert said == {"account": "connected", "namespace": "refused"}


@pytest.mark.accept("6.A3")
async def test_every_request_is_logged_with_its_agent(outside: Outside) -> None:
    ordinary = await outside.harness.deploy(FETCHES)
    await outside.answer(ordinary, f"http://{outside.open}/?secret=1")
    await outside.answer(ordinary, "http://db.internal/")

    async def lines() -> list[dict[str, object]]:
        text = await asyncio.to_thread(outside.harness.edge.log.read_text)
        return [logged(line) for line in text.splitlines() if ordinary.id in line]

    async def both() -> bool:
        return len(await lines()) == 2

    await eventually(both, "both requests are logged")
    common = {
        "event": "egress",
        "userId": ordinary.user_id,
        "agentId": ordinary.agent_id,
        "deploymentId": ordinary.id,
        "method": "GET",
    }
    assert await lines() == [
        {**common, "host": outside.open, "status": 200},
        {**common, "host": "db.internal", "status": 403},
    ]


def logged(line: str) -> dict[str, object]:
    """The JSON in a line of the edge's log."""
    start, end = line.index("{"), line.rindex("}") + 1
    return msgspec.json.decode(line[start:end])
