"""What scripts reach: each other by RPC, user Workers in a namespace, and which addresses."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from aiohttp import web
from cloudflare import BadRequestError, NotFoundError
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.edge import Edge, start_edge

CALLEE = """
import { WorkerEntrypoint } from "cloudflare:workers";
export default class extends WorkerEntrypoint {
  async fetch() { return new Response("fetched VERSION"); }
  async greet(name, caller) { return `hello ${name}, VERSION ${await caller.ask()}`; }
  async stream() {
    const { readable, writable } = new IdentityTransformStream();
    const writer = writable.getWriter();
    const write = (text) => writer.write(new TextEncoder().encode(text));
    this.ctx.waitUntil(write("one ").then(() => write("two")).then(() => writer.close()));
    return readable;
  }
  async props() { return JSON.stringify(this.ctx.props ?? null); }
  async seen() { return Object.keys(this.env).join(); }
}
"""
CALLER = """
import { RpcTarget } from "cloudflare:workers";
class Caller extends RpcTarget { async ask() { return "and asked"; } }
export default { async fetch(request, env) {
  const { pathname, searchParams } = new URL(request.url);
  const callee = env.CALLEE ?? env.SPACE.get(searchParams.get("name"));
  try {
    switch (pathname) {
      case "/fetch": return callee.fetch("http://callee/");
      case "/stream": return new Response(await callee.stream());
      case "/props": return new Response(await callee.props());
      case "/seen": return new Response(await callee.seen());
      default: return new Response(await callee.greet("you", new Caller()));
    }
  } catch (error) { return new Response(error.message, { status: 500 }); }
} };
"""
BINDING = {"type": "service", "name": "CALLEE", "service": "callee", "props": {"who": "ä"}}
SPACE = {"type": "dispatch_namespace", "name": "SPACE", "namespace": "users"}


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with start_edge(tmp_path / "data") as running:
        yield running


async def upload_user(edge: Edge, name: str, code: str = CALLEE) -> None:
    await edge.sdk.workers_for_platforms.dispatch.namespaces.scripts.update(
        name,
        account_id=edge.account_id,
        dispatch_namespace="users",
        metadata={
            "main_module": "main.mjs",
            "compatibility_date": "2026-01-01",
            "bindings": [{"type": "secret_text", "name": "OWN", "text": "s"}],
            "tags": ["one"],
        },
        files=[("main.mjs", code.encode(), "application/javascript+module")],
    )


async def test_a_script_calls_another_by_rpc_with_stubs_streams_and_props(edge: Edge) -> None:
    await edge.upload("callee", CALLEE)
    await edge.upload("caller", CALLER, bindings=[BINDING])
    await edge.publish("caller")
    assert await edge.get("caller") == (200, "hello you, VERSION and asked")
    assert await edge.get("caller", "/fetch") == (200, "fetched VERSION")
    assert await edge.get("caller", "/stream") == (200, "one two")
    assert await edge.get("caller", "/props") == (200, '{"who":"ä"}')


async def test_a_new_version_of_a_callee_is_called_at_once(edge: Edge) -> None:
    await edge.upload("callee", CALLEE)
    await edge.upload("caller", CALLER, bindings=[BINDING])
    await edge.publish("caller")
    assert await edge.get("caller") == (200, "hello you, VERSION and asked")
    await edge.upload("callee", CALLEE.replace("VERSION", "NEW"))
    assert await edge.get("caller") == (200, "hello you, NEW and asked")
    await edge.sdk.workers.scripts.delete("callee", account_id=edge.account_id, force=True)
    assert (await edge.get("caller"))[0] == 500


async def test_a_dispatch_worker_calls_user_workers_by_name(edge: Edge) -> None:
    namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
    await namespaces.create(account_id=edge.account_id, name="users")
    await edge.upload("dispatcher", CALLER, bindings=[SPACE])
    await edge.publish("dispatcher")
    assert await edge.get("dispatcher", "/?name=one") == (500, "Worker not found.")
    await upload_user(edge, "one")
    await upload_user(edge, "two", CALLEE.replace("VERSION", "SECOND"))
    assert await edge.get("dispatcher", "/?name=one") == (200, "hello you, VERSION and asked")
    assert await edge.get("dispatcher", "/?name=two") == (200, "hello you, SECOND and asked")
    assert await edge.get("dispatcher", "/fetch?name=one") == (200, "fetched VERSION")
    assert await edge.get("dispatcher", "/stream?name=one") == (200, "one two")
    assert await edge.get("dispatcher", "/seen?name=one") == (200, "OWN")
    await upload_user(edge, "one", CALLEE.replace("VERSION", "NEW"))
    assert await edge.get("dispatcher", "/?name=one") == (200, "hello you, NEW and asked")
    for name in ("constructor", "toString"):
        assert await edge.get("dispatcher", f"/?name={name}") == (500, "Worker not found.")
    assert (await edge.get("one"))[0] == 404

    await namespaces.scripts.delete("one", account_id=edge.account_id, dispatch_namespace="users")
    assert await edge.get("dispatcher", "/?name=one") == (500, "Worker not found.")
    assert await edge.get("dispatcher", "/?name=two") == (200, "hello you, SECOND and asked")


async def test_namespaces_and_their_scripts_survive_a_restart(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data") as edge:
        namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
        await namespaces.create(account_id=edge.account_id, name="users")
        await upload_user(edge, "one")
        await edge.upload("dispatcher", CALLER, bindings=[SPACE])
        await edge.publish("dispatcher")
    async with start_edge(tmp_path / "data") as edge:
        assert (await edge.get("dispatcher", "/?name=one"))[0] == 200
        namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
        found = await namespaces.get("users", account_id=edge.account_id)
        assert found is not None
        assert (found.script_count, found.trusted_workers) == (1, False)
        listed = await edge.sdk.workers.scripts.list(account_id=edge.account_id)
        assert [script.id for script in listed.result] == ["dispatcher"]
        with pytest.raises(BadRequestError):
            await namespaces.delete("users", account_id=edge.account_id)


async def test_what_is_in_no_namespace_is_refused(edge: Edge) -> None:
    with pytest.raises(NotFoundError):
        await upload_user(edge, "one")
    with pytest.raises(BadRequestError):
        await edge.upload("dispatcher", CALLER, bindings=[SPACE])


async def test_a_script_reaches_no_private_address_that_it_is_not_given(tmp_path: Path) -> None:
    async def ok(_request: web.Request) -> web.Response:
        return web.Response(text="reached")

    app = web.Application()
    app.router.add_get("/", ok)
    runner = web.AppRunner(app)
    await runner.setup()
    given, other = free_port(), free_port()
    for port in (given, other):
        await web.TCPSite(runner, "127.0.0.1", port).start()
    code = """
    export default { async fetch(request) {
      const reach = (url) => fetch(url).then((r) => r.text(), () => "refused");
      const ports = new URL(request.url).searchParams.getAll("port");
      return Response.json(await Promise.all(ports.map((p) => reach(`http://127.0.0.1:${p}/`))));
    } };
    """
    named = {"type": "plain_text", "name": "URL", "text": f"http://127.0.0.1:{given}"}
    path = f"/?port={given}&port={other}"
    try:
        async with start_edge(
            tmp_path / "data", EDGE_PRIVATE_ADDRESSES=f"127.0.0.1:{given}"
        ) as edge:
            for name, bindings in {"with": [named], "without": []}.items():
                await edge.upload(name, code, bindings=bindings)
                await edge.publish(name)
            assert await edge.get("with", path) == (200, '["reached","refused"]')
            assert await edge.get("without", path) == (200, '["refused","refused"]')
    finally:
        await runner.cleanup()


SLOW = """
import { WorkerEntrypoint } from "cloudflare:workers";
export default class extends WorkerEntrypoint {
  async stream() {
    const { readable, writable } = new IdentityTransformStream();
    const writer = writable.getWriter();
    const write = async () => {
      for (let n = 0; n < 14; n++) {
        await writer.write(new TextEncoder().encode(`${n} `));
        await scheduler.wait(1_000);
      }
      await writer.close();
    };
    this.ctx.waitUntil(write());
    return readable;
  }
}
"""


DISPATCHER = """
export default { fetch(request, env) {
  const who = new URL(request.url).searchParams.get("who");
  return env.SPACE.get("one", {}, { outbound: { who } }).fetch(request);
} };
"""
FETCHES = "export default { fetch: () => fetch('http://any.example/') };"
OUTBOUND = """
export default { fetch(request, env) {
  return new Response(`${env.who} ${Object.keys(env)} ${[...request.headers]}`);
} };
"""


async def test_an_outbound_worker_knows_whose_request_it_is(edge: Edge, tmp_path: Path) -> None:
    async def said(who: str) -> tuple[int, str]:
        return await edge.get("dispatcher", f"/?who={quote(who)}")

    namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
    await namespaces.create(account_id=edge.account_id, name="users")
    await upload_user(edge, "one", FETCHES)
    await edge.upload("outbound", OUTBOUND)
    outbound = {"worker": {"service": "outbound"}, "params": [{"name": "who"}]}
    await edge.upload("dispatcher", DISPATCHER, bindings=[SPACE | {"outbound": outbound}])
    await edge.publish("dispatcher")
    assert await said("one") == (200, "one who ")

    # given that nothing changed, then nothing is written, and a new process knows it too
    file = tmp_path / "data" / "run" / "parameters" / "users@one"
    written = file.stat().st_mtime_ns
    assert await said("one") == (200, "one who ")
    ended = max(psutil.Process(edge.process.pid).children(), key=psutil.Process.create_time)
    ended.kill()  # the one that was started last, and called last

    async def knows() -> bool:
        return await said("one") == (200, "one who ")

    await eventually(knows, "another process of the outbound Worker", seconds=10)
    assert not ended.is_running()
    assert file.stat().st_mtime_ns == written

    # when they change, then they are written
    assert await said("ä") == (200, "ä who ")
    assert file.stat().st_mtime_ns != written


@pytest.mark.long
async def test_a_call_to_a_user_worker_ends_well_after_it_was_replaced(edge: Edge) -> None:
    namespaces = edge.sdk.workers_for_platforms.dispatch.namespaces
    await namespaces.create(account_id=edge.account_id, name="users")
    await upload_user(edge, "one", SLOW)
    await edge.upload("dispatcher", CALLER, bindings=[SPACE])
    await edge.publish("dispatcher")
    path = f"{edge.origin}/stream?name=one"
    async with edge.http.get(path, headers=edge.host("dispatcher")) as response:
        said = await response.content.readany()
        await upload_user(edge, "one")
        assert await edge.get("dispatcher", "/?name=one") == (200, "hello you, VERSION and asked")
        said += await response.content.read()
    assert said.decode().split() == [str(n) for n in range(14)]

    def processes() -> int:
        return len(psutil.Process(edge.process.pid).children())

    async def gone() -> bool:
        return processes() == 2

    await eventually(gone, "the replaced processes to end", seconds=40)
