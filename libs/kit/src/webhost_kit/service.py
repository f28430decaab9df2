"""How every process runs: doors, background work, an orderly end.

Crash-only: background work that fails in a way nobody foresaw ends the process, and a restart
is the recovery. SIGTERM and SIGINT stop the doors, let what is under way finish, and end.
"""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import structlog
import uvicorn
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from webhost_kit.connection import Connection
from webhost_kit.readiness import Readiness

log = structlog.get_logger(__name__)

GRACE_S = 10
App = Any
"""An ASGI application."""


class Service:
    """What one process consists of. `stack` closes, last first, what was opened for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.readiness = Readiness()
        self.stack = AsyncExitStack()
        self._doors: list[uvicorn.Server] = []
        self._work: list[tuple[str, Coroutine[Any, Any, None]]] = []

    def door(self, app: App, address: str) -> None:
        """Answer HTTP at `host:port` with this ASGI application."""
        host, _, port = address.rpartition(":")
        self._doors.append(
            _Server(
                uvicorn.Config(
                    app,
                    host=host,
                    port=int(port),
                    loop="uvloop",
                    http=Connection,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    date_header=False,
                    proxy_headers=False,
                    lifespan="off",
                    timeout_graceful_shutdown=GRACE_S,
                    timeout_keep_alive=75,
                )
            )
        )

    def work(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run this in the background for as long as the process lives."""
        self._work.append((name, coroutine))

    def operations_door(self, address: str) -> None:
        """Answer /livez, /readyz and /metrics on a port that the public origin does not route."""
        self.door(_Operations(self.readiness), address)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until background work fails (which is raised)."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with self.stack:
            work = [asyncio.create_task(run, name=name) for name, run in self._work]
            doors = [asyncio.create_task(door.serve()) for door in self._doors]
            stop: asyncio.Task[Any] = asyncio.create_task(stopping.wait())
            log.info("started", service=self.name)
            try:
                await self._until_stopped_or_failed(stop, work, doors)
            finally:
                for door in self._doors:
                    door.should_exit = True
                await asyncio.gather(*doors, return_exceptions=True)
                background: list[asyncio.Task[Any]] = [*work, stop]
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                log.info("stopped", service=self.name)

    async def _until_stopped_or_failed(
        self,
        stop: asyncio.Task[Any],
        work: list[asyncio.Task[None]],
        doors: list[asyncio.Task[None]],
    ) -> None:
        pending: set[asyncio.Task[Any]] = {stop, *work, *doors}
        while stop in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in doors:
                    raise RuntimeError("a door closed by itself; is its port taken?")
                if task is not stop and (error := task.exception()) is not None:
                    raise RuntimeError(f"{task.get_name()} failed") from error


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run a service's main coroutine on uvloop."""
    with asyncio.Runner(loop_factory=_loop_factory) as runner:
        runner.run(service)


def _loop_factory() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


class _Server(uvicorn.Server):
    """Leaves the signals to the Service, which has more than one door to close."""

    def install_signal_handlers(self) -> None:
        return

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


class _Operations:
    """The operator's door."""

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
            ready = all(problem == "ok" for problem in report.values())
            body = {"status": "ok" if ready else "unready", "checks": report}
            return 200 if ready else 503, b"application/json", msgspec.json.encode(body)
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST.encode(), generate_latest(REGISTRY)
        return 404, b"application/json", b'{"status":"not found"}'
