"""Processes, storage and streams of the edge: what survives, what ends, what waits for nothing."""

import asyncio
import json
import os
import pwd
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web
from webhost_local.ports import free_port

from tests.support.edge import Edge, start_edge

COUNTER = """
import { DurableObject } from "cloudflare:workers";
export class Counter extends DurableObject {
  async fetch() {
    const count = 1 + (await this.ctx.storage.get("count") ?? 0);
    await this.ctx.storage.put("count", count);
    return new Response(`VERSION ${count} ${this.ctx.id.name ?? ""}`.trim());
  }
}
export default { fetch(request, env, ctx) {
  const owner = ctx.props?.agentId ?? "public";
  return env.COUNTERS.get(env.COUNTERS.idFromName(owner)).fetch(request);
} };
"""
COUNTERS = {"type": "durable_object_namespace", "name": "COUNTERS", "class_name": "Counter"}
MIGRATIONS = {"new_tag": "v1", "new_sqlite_classes": ["Counter"]}
CALLER = """
export default { async fetch(request, env) {
  return env.STORE.fetch("http://store/", { headers: request.headers });
} };
"""
PROPS_HEADER = "x-webhost-edge-binding-props"


def children(pid: int) -> list[int]:
    """Process ids below this one, whatever thread started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 (another process's state has no event)
            await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def bound(props: dict[str, str]) -> dict[str, object]:
    return {"type": "service", "name": "STORE", "service": "store", "props": props}


async def test_durable_objects_survive_redeploy_and_restart(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data") as edge:
        await edge.upload("counter", COUNTER, bindings=[COUNTERS], migrations=MIGRATIONS)
        await edge.publish("counter")
        assert (await edge.get("counter"))[1].startswith("VERSION 1")
        await edge.upload("counter", COUNTER.replace("VERSION", "NEW"), bindings=[COUNTERS])
        assert (await edge.get("counter"))[1].startswith("NEW 2")
    async with start_edge(tmp_path / "data") as edge:
        assert (await edge.get("counter"))[1].startswith("NEW 3")


async def test_props_reach_the_callee_and_cannot_be_forged(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data") as edge:
        await edge.upload("store", COUNTER, bindings=[COUNTERS], migrations=MIGRATIONS)
        await edge.upload("one", CALLER, bindings=[bound({"agentId": "äg-1"})])
        await edge.upload("two", CALLER, bindings=[bound({"agentId": "ag-2"})])
        for name in ("store", "one", "two"):
            await edge.publish(name)
        forged = {PROPS_HEADER: '{"agentId": "ag-2"}'}
        assert [(await edge.get("one", **forged))[1] for _ in range(2)] == [
            "VERSION 1 äg-1",
            "VERSION 2 äg-1",
        ]
        assert (await edge.get("two"))[1] == "VERSION 1 ag-2"
        assert (await edge.get("store", **forged))[1] == "VERSION 1 public"

        # The callee changes under its running callers, and its objects go on.
        await edge.upload("store", COUNTER.replace("VERSION", "NEW"), bindings=[COUNTERS])
        assert (await edge.get("one"))[1] == "NEW 3 äg-1"


async def test_a_killed_edge_leaves_no_worker_and_a_killed_worker_restarts(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data") as edge:
        await edge.upload("counter", COUNTER, bindings=[COUNTERS], migrations=MIGRATIONS)
        await edge.publish("counter")
        assert (await edge.get("counter"))[1].startswith("VERSION 1")
        (worker,) = children(edge.process.pid)
        os.kill(worker, signal.SIGKILL)
        # A request that meets the process while it dies gets 502; the ones after it a new process.
        async with asyncio.timeout(10):
            status, text = await edge.get("counter")
            while status == 502:
                status, text = await edge.get("counter")
        assert text.startswith("VERSION 2")
        (worker,) = children(edge.process.pid)
        edge.process.kill()
        await edge.process.wait()
        await becomes(lambda pid=worker: not _alive(pid))
    async with start_edge(tmp_path / "data") as edge:
        assert (await edge.get("counter"))[1].startswith("VERSION 3")
        (worker,) = children(edge.process.pid)
    assert edge.process.returncode == 0
    await becomes(lambda pid=worker: not _alive(pid))


async def test_idle_workers_stop_and_start_again(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data", EDGE_IDLE_SECONDS="0.4") as edge:
        await edge.upload("store", COUNTER, bindings=[COUNTERS], migrations=MIGRATIONS)
        await edge.upload("one", CALLER, bindings=[bound({"agentId": "a"})])
        await edge.publish("one")
        assert (await edge.get("one"))[1] == "VERSION 1 a"
        assert len(children(edge.process.pid)) == 2
        await becomes(lambda: not children(edge.process.pid))
        assert (await edge.get("one"))[1] == "VERSION 2 a"


async def test_a_chunk_leaves_when_it_is_written(tmp_path: Path) -> None:
    """Chunk k+1 is written only after the test has received chunk k."""
    gate: asyncio.Queue[None] = asyncio.Queue()

    async def wait(_request: web.Request) -> web.Response:
        await gate.get()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", wait)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    code = """
    export default { fetch(request, env, ctx) {
      const { readable, writable } = new TransformStream();
      const write = async () => {
        const writer = writable.getWriter();
        for (let k = 0; k < 4; k++) {
          await fetch(env.GATE);
          await writer.write(new TextEncoder().encode(`chunk ${k};`));
        }
        await writer.close();
      };
      ctx.waitUntil(write());
      return new Response(readable);
    } };
    """
    gate_url = {"type": "plain_text", "name": "GATE", "text": f"http://127.0.0.1:{port}/"}
    try:
        private = f"127.0.0.1:{port}"
        async with (
            start_edge(tmp_path / "data", EDGE_PRIVATE_ADDRESSES=private) as edge,
            asyncio.timeout(30),
        ):
            await edge.upload("gated", code, bindings=[gate_url])
            await edge.publish("gated")
            async with edge.http.get(edge.origin, headers=edge.host("gated")) as response:
                for k in range(4):
                    gate.put_nowait(None)
                    assert await response.content.readuntil(b";") == f"chunk {k};".encode()
                assert await response.content.read() == b""
    finally:
        await runner.cleanup()


async def test_services_stream_both_ways_and_their_absence_is_said(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Path": request.raw_path})
        await response.prepare(request)
        try:
            async for chunk in request.content.iter_any():
                await response.write(chunk)
            await asyncio.sleep(60)
        except (asyncio.CancelledError, ConnectionError):
            cancelled.set()
            raise
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def body():
        yield b"first"
        assert await received.get() == b"first"
        yield b"second"

    gateway = f"http://127.0.0.1:{port}"
    try:
        async with (
            start_edge(
                tmp_path / "data",
                EDGE_UPSTREAM_GATEWAY=f"http://127.0.0.1:{free_port()},{gateway}",
                EDGE_UPSTREAM_API=f"http://127.0.0.1:{free_port()}",
            ) as edge,
            asyncio.timeout(30),
        ):
            url = f"{edge.origin}/v1/invoke/agt%2F1/stream?a=%20b"
            for _ in range(2):  # one replica is away: the other answers every call
                async with edge.http.post(url) as response:
                    assert response.status == 200
            async with edge.http.post(url, data=body()) as response:
                assert response.headers["X-Path"] == "/v1/invoke/agt%2F1/stream?a=%20b"
                received.put_nowait(await response.content.readany())
                assert await response.content.readany() == b"second"
                response.close()
            await cancelled.wait()
            for path in ("/v1/agents", "/v1/telemetry/report"):
                async with edge.http.get(
                    edge.origin + path, headers={"X-Request-Id": "r-1"}
                ) as away:
                    assert away.status == 503
                    assert away.headers["Retry-After"]
                    assert away.headers["X-Request-Id"] == "r-1"
                    error = (await away.json())["error"]
                    assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
    finally:
        await runner.cleanup()


async def test_no_request_fails_while_versions_change(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data") as edge:
        code = "export default { async fetch(r) { return new Response(`0 ${await r.text()}`); } };"
        await edge.upload("busy", code)
        await edge.publish("busy")
        answers: list[tuple[int, str]] = []
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                async with edge.http.post(
                    edge.origin, headers=edge.host("busy"), data=b"hello"
                ) as response:
                    answers.append((response.status, (await response.text())[1:]))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call())
            for version in range(1, 5):
                await edge.upload("busy", code.replace("`0", f"`{version}"))
                seen = len(answers)
                await becomes(lambda seen=seen: len(answers) > seen + 20)
            done.set()
        assert set(answers) == {(200, " hello")}


async def test_the_api_blocks_a_token_that_passes_the_limit(tmp_path: Path) -> None:
    async with start_edge(tmp_path / "data", EDGE_API_RATE_LIMIT="3") as edge:
        headers = {"Authorization": f"Bearer {edge.api_token}"}
        statuses = []
        for _ in range(5):
            async with edge.http.get(f"{edge.api_base_url}/user", headers=headers) as response:
                statuses.append(response.status)
        assert statuses == [200, 200, 200, 429, 429]


async def test_a_script_that_never_yields_is_ended(edge: Edge) -> None:
    code = """
    export default { fetch(request) {
      while (new URL(request.url).pathname === "/spin");
      return new Response("answered");
    } };
    """
    await edge.upload("spinning", code, limits={"cpu_ms": 500})
    await edge.publish("spinning")
    assert (await edge.get("spinning", "/spin"))[0] == 502
    assert await edge.get("spinning") == (200, "answered")


async def test_a_script_that_fills_the_memory_is_ended_while_it_is_busy(edge: Edge) -> None:
    code = """
    export default { fetch(request) {
      const kept = [];
      while (kept.length < 700) kept.push(new Uint8Array(1024 * 1024).fill(1));
      while (kept.length > 0);
    } };
    """
    await edge.upload("filling", code, limits={"cpu_ms": 30_000})
    await edge.publish("filling")
    began = time.monotonic()
    assert (await edge.get("filling"))[0] == 502
    assert time.monotonic() - began < 15


async def test_workerd_is_nobody_where_the_edge_is_root() -> None:
    """Durable Objects, bindings and a restart included."""
    own = os.geteuid()
    expected = own if own != 0 else pwd.getpwnam("nobody").pw_uid
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)  # noqa: PTH101
        for count in (1, 2):
            async with start_edge(Path(name) / "data") as edge:
                if count == 1:
                    await edge.upload("store", COUNTER, bindings=[COUNTERS], migrations=MIGRATIONS)
                    await edge.upload("one", CALLER, bindings=[bound({"agentId": "a"})])
                    await edge.publish("one")
                assert await edge.get("one") == (200, f"VERSION {count} a")
                assert {user_of(pid) for pid in children(edge.process.pid)} == {expected}
                manifest = os.stat(f"{name}/data/scripts/one/manifest.json")  # noqa: PTH116
                assert (manifest.st_uid, manifest.st_mode & 0o077) == (own, 0)


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def test_requests_go_to_the_replicas_that_are_ready(tmp_path: Path) -> None:
    served: Counter[str] = Counter()
    ready = {"a": True, "b": True}
    frozen: set[str] = set()

    def application(name: str) -> web.Application:
        async def serve(_: web.Request) -> web.Response:
            served[name] += 1
            return web.Response()

        async def readyz(_: web.Request) -> web.Response:
            while name in frozen:  # noqa: ASYNC110 - it says nothing
                await asyncio.sleep(0.05)
            return web.Response(status=200 if ready[name] else 503)

        app = web.Application()
        app.router.add_get("/readyz", readyz)
        app.router.add_post("/{path:.*}", serve)
        return app

    async with AsyncExitStack() as closing:
        urls = []
        for name in ready:
            runner = web.AppRunner(application(name))
            await runner.setup()
            closing.push_async_callback(runner.cleanup)
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            urls.append(f"http://127.0.0.1:{port}")
        edge = await closing.enter_async_context(
            start_edge(
                tmp_path / "data",
                EDGE_UPSTREAM_GATEWAY=",".join(urls),
                EDGE_READINESS=json.dumps({url: f"{url}/readyz" for url in urls}),
            )
        )

        async def shares() -> set[str]:
            served.clear()
            for _ in range(6):
                async with edge.http.post(f"{edge.origin}/v1/invoke/agt_1") as response:
                    assert response.status == 200
            return set(served)

        async def until(wanted: set[str]) -> None:
            async with asyncio.timeout(20):
                while await shares() != wanted:  # noqa: ASYNC110 - it is asked by calling
                    await asyncio.sleep(0.05)

        assert await shares() == {"a", "b"}
        assert served["a"] == served["b"]
        ready["b"] = False
        await until({"a"})
        ready["a"] = False  # nobody is: whoever can be reached answers for itself
        await until({"a", "b"})
        ready["b"] = True
        await until({"b"})
        ready["a"] = True
        await until({"a", "b"})
        frozen.add("b")
        await until({"a"})
        frozen.clear()
        await until({"a", "b"})
