"""The servers of the wheels as child processes, which fault tests can kill and start again."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from webhost_local import nats_server
from webhost_local.child import end, processes_working_in, tied_to_parent
from webhost_local.installation.nats_config import Account
from webhost_local.ports import free_port
from webhost_local.postgres_server import Cluster, run_as

from tests.support.deadline import until


class ServerProcess:
    """One server of a fixed port and data directory, started and ended by us."""

    def __init__(
        self,
        command: list[str],
        *,
        port: int,
        directory: Path,
        is_ready: Callable[[], bool],
        prepare: Callable[[], None] = lambda: None,
        user: str | None = None,
    ) -> None:
        self.port = port
        self._command = command
        self._directory = directory
        self._is_ready = is_ready
        self._prepare = prepare
        self._user = user
        self._log = directory.with_name(directory.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, unless it runs; returns when it is ready."""
        if self._process is not None:
            return
        self._prepare()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                preexec_fn=tied_to_parent(),
            )
        until(self._ready_or_dead, "the server to be ready", seconds=20)
        if self._process.poll() is not None:
            raise RuntimeError(f"the server ended at once: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL; returns when it and all its children are dead."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        end(processes_working_in(self._directory), first=signal.SIGKILL, grace=5)

    def stop(self) -> None:
        """End it for good. Its data is temporary, so there is nothing to finish."""
        self.kill()

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        """To it or one of its children."""
        os.kill(pid, number)

    def _ready_or_dead(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or self._is_ready()


def nats(directory: Path, accounts: dict[str, Account]) -> ServerProcess:
    """Start a nats-server with these accounts; its store is in `directory`."""
    port = free_port()
    config = directory / "nats.conf"
    store = directory / "store"
    store.mkdir()
    nats_server.write_config(config, port=port, store_dir=store, accounts=accounts)
    server = ServerProcess(
        nats_server.command(config),
        port=port,
        directory=store,
        is_ready=lambda: nats_server.is_ready(port),
    )
    server.start()
    return server


NODES = ("one", "two", "three")


def nats_cluster(
    directory: Path, accounts: dict[str, Account], monitors: dict[str, int]
) -> dict[str, ServerProcess]:
    """Start three nats-servers that are a cluster, by their names; their stores are empty.

    `monitors` are the ports where each says how it is.
    """
    routes = {name: free_port() for name in NODES}
    servers: dict[str, ServerProcess] = {}
    for name in NODES:
        port, store = free_port(), directory / name
        config = directory / f"{name}.conf"
        store.mkdir()
        nats_server.write_config(
            config,
            port=port,
            store_dir=store,
            accounts=accounts,
            cluster=nats_server.Cluster(name, routes, "of-the-routes"),
        )
        servers[name] = ServerProcess(
            [*nats_server.command(config), "--http_port", str(monitors[name])],
            port=port,
            directory=store,
            is_ready=lambda port=port: nats_server.is_ready(port),
        )
    for server in servers.values():
        server.start()
    return servers


def postgres(directory: Path, password: str) -> ServerProcess:
    """Start a Postgres with a new cluster in `directory`; its superuser has this password."""
    cluster = Cluster(directory / "cluster", free_port(), password, durable=False)
    server = ServerProcess(
        cluster.command(),
        port=cluster.port,
        directory=cluster.directory,
        is_ready=cluster.is_ready,
        prepare=cluster.prepare,
        user=run_as(),
    )
    server.start()
    return server
