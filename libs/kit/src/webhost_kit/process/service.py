"""How every process runs: its parts, its HTTP servers, an orderly end.

Crash-only: a part that fails unexpectedly ends the process, and a restart is the recovery.
SIGTERM and SIGINT make it unready, and after a while, in which whoever balances requests turns to
other replicas, stop the servers; requests that are under way finish, within bounds, while all parts
still work; then it ends. At a second signal it waits for nobody.
"""

import asyncio
import math
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import msgspec
import structlog
import uvicorn
from prometheus_client import REGISTRY, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from webhost_kit.http.connection import Connection
from webhost_kit.process.event_loop import measure_delays
from webhost_kit.process.garbage import collect_less
from webhost_kit.process.readiness import Readiness
from webhost_kit.tasks import cancel

log = structlog.get_logger(__name__)

GRACE_S = 10.0
"""How long requests that are under way may still take, where they are not known to take longer."""

# Each counter and histogram would have one series more, which says when it was made.
disable_created_metrics()
App = Any
"""An ASGI application."""

P = TypeVar("P")


class Service:
    """What one process consists of."""

    def __init__(self, name: str, *, drain_s: float = 0.0) -> None:
        self.name = name
        self.readiness = Readiness()
        self._drain_s = drain_s
        self._closing = AsyncExitStack()
        self._servers: list[_Server] = []
        self._work: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._draining: list[Callable[[], None]] = []

    def add(self, name: str, part: P) -> P:
        """Add a part and return it; each of these methods is used if the part has it.

        `run()` runs in the background for the lifetime of the process; `check()` is a condition of
        readiness; `note()` is shown beside it; `drain()` is called when no more requests are
        taken, to end those that would not end by themselves; `close()` is awaited at the end, in
        reverse order.
        """
        if (run := getattr(part, "run", None)) is not None:
            self.work(name, run)
        if (check := getattr(part, "check", None)) is not None:
            self.readiness.add(name, check)
        if (note := getattr(part, "note", None)) is not None:
            self.readiness.notes[name] = note
        if (drain := getattr(part, "drain", None)) is not None:
            self._draining.append(drain)
        if (close := getattr(part, "close", None)) is not None:
            self._closing.push_async_callback(close)
        return part

    def work(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this in the background as long as the process lives."""
        self._work.append((name, run))

    def serve(
        self,
        app: App,
        address: str,
        *,
        trusted_proxies: Sequence[str] = (),
        grace_s: float = GRACE_S,
        connection: type[Connection] = Connection,
    ) -> None:
        """Answer HTTP at `host:port` with this ASGI application.

        The client's address is the one that a trusted proxy states in `X-Forwarded-For`. At the
        end a request may take `grace_s` longer. `connection` has the bounds of each connection.
        """
        host, _, port = address.rpartition(":")
        self._servers.append(
            _Server(
                uvicorn.Config(
                    app,
                    host=host,
                    port=int(port),
                    loop="uvloop",
                    http=connection,
                    ws="none",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    date_header=False,
                    proxy_headers=bool(trusted_proxies),
                    forwarded_allow_ips=list(trusted_proxies),
                    lifespan="off",
                    timeout_graceful_shutdown=math.ceil(grace_s),
                    timeout_keep_alive=75,
                )
            )
        )

    async def aclose(self) -> None:
        """Close what was added, the last first. `run` does this at its end."""
        await self._closing.aclose()

    def serve_operations(self, address: str) -> None:
        """Answer /livez, /readyz and /metrics on a port that the public origin does not route."""
        self.serve(_Operations(self.readiness), address)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until a part fails (which is raised)."""
        stopping, forcing = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _next, stopping, forcing)
        async with self._closing:
            self.work("event loop", measure_delays)
            work = [asyncio.create_task(run(), name=name) for name, run in self._work]
            servers = [asyncio.create_task(server.serve()) for server in self._servers]
            stop: asyncio.Task[Any] = asyncio.create_task(stopping.wait())
            log.info("started", service=self.name)
            collect_less()
            try:
                await self._until_stopped_or_failed(stop, work, servers)
                await self._drain(forcing)
            finally:
                forced = asyncio.create_task(self._force_exit(forcing))
                for server in self._servers:
                    server.should_exit = True
                for drain in self._draining:
                    drain()
                await asyncio.gather(*servers, return_exceptions=True)
                await cancel(*work, stop, forced)
                log.info("stopped", service=self.name)

    async def _drain(self, forcing: asyncio.Event) -> None:
        """Answer what still comes, and keep no connection, until nothing more should come."""
        self.readiness.add("service", lambda: "ending")
        for server in self._servers:
            server.keep_no_connections()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await forcing.wait()

    async def _force_exit(self, forcing: asyncio.Event) -> None:
        await forcing.wait()
        for server in self._servers:
            server.cut_off()

    async def _until_stopped_or_failed(
        self,
        stop: asyncio.Task[Any],
        work: list[asyncio.Task[None]],
        servers: list[asyncio.Task[None]],
    ) -> None:
        pending: set[asyncio.Task[Any]] = {stop, *work, *servers}
        while stop in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in servers:
                    raise RuntimeError("a server stopped unexpectedly; is its port in use?")
                if task is not stop and (error := task.exception()) is not None:
                    raise RuntimeError(f"{task.get_name()} failed") from error


def _next(*events: asyncio.Event) -> None:
    """Set the first one that is not set."""
    for event in events:
        if not event.is_set():
            event.set()
            return


class _Server(uvicorn.Server):
    """Leaves the signals to the Service, which has more than one server to close."""

    def keep_no_connections(self) -> None:
        """Let each connection's next answer be its last."""
        self.config.encoded_headers.append((b"connection", b"close"))
        # From now on, and not only from when uvicorn next sets them.
        self.server_state.default_headers = list(self.config.encoded_headers)

    def cut_off(self) -> None:
        """End at once; requests that are under way are cancelled."""
        self.should_exit = self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()

    def install_signal_handlers(self) -> None:
        return

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


class _Operations:
    """/livez, /readyz and /metrics."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, kind, body = self._answer(scope["path"])
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/livez":
            return 200, b"application/json", b'{"status":"ok"}'
        if path == "/readyz":
            report = self._readiness.report()
            ready = self._readiness.ready()
            body = {"status": "ok" if ready else "unready", "checks": report}
            return 200 if ready else 503, b"application/json", msgspec.json.encode(body)
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST.encode(), generate_latest(REGISTRY)
        return 404, b"application/json", b'{"status":"not found"}'
