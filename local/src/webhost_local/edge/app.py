"""The composition root of the edge: one process, two listeners, the workerd processes below it."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from webhost_kit.http.connection import Connection

from webhost_local.edge import api
from webhost_local.edge.errors import DataDirInUse
from webhost_local.edge.origin import Origin
from webhost_local.edge.owner import Owner
from webhost_local.edge.settings import EdgeSettings
from webhost_local.edge.store import Store
from webhost_local.edge.workers import Workers

LOCK_SECONDS = 10.0
SHUTDOWN_SECONDS = 5
# Longer than any client of ours keeps an idle connection, so that none finds it closed.
KEEPALIVE_SECONDS = 75

log = logging.getLogger("webhost.edge")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: two of them share this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def run(settings: EdgeSettings) -> None:
    """Serve until SIGTERM or SIGINT; no workerd is left behind.

    Raises DataDirInUse, WorkerdMissing, or OSError when an address is taken.
    """
    workerd = settings.workerd_path()
    data_dir = settings.data_dir.resolve()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = await asyncio.to_thread(_lock, data_dir / "lock")
    # Unix socket paths are limited to 108 bytes: relative ones are short wherever the data lies.
    os.chdir(data_dir)
    store = Store(data_dir, Owner.of(data_dir, workerd))
    workers = Workers(store, workerd, settings, lock)
    origin = Origin(settings, store, workers)
    application = api.build(settings, store, workers, origin.routes_changed)
    listeners = [_listen(settings.listen), _listen(settings.api_listen)]
    servers = [_server(origin), _server(application)]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    await workers.open()
    await origin.open()
    log.info("public origin on %s, API on %s", settings.listen, settings.api_listen)
    try:
        await asyncio.gather(
            *(s.serve(sockets=[sock]) for s, sock in zip(servers, listeners, strict=True))
        )
    finally:
        await origin.close()
        await workers.close()


def _server(app: "ASGIApp | Origin") -> _Server:
    config = uvicorn.Config(
        app,
        loop="none",
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(config)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_server((host.strip("[]"), int(port)), backlog=1024)


def _lock(path: Path) -> int:
    """Hold the data directory. A dying workerd of a killed edge may hold it a moment longer."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise DataDirInUse(f"another edge is using {path.parent}") from None
            time.sleep(0.05)
