"""Every process of a benchmark: started on loopback and a free port, ended with its block."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from webhost_local import nats_server
from webhost_local.child import end, processes_working_in, tied_to_parent
from webhost_local.installation.nats_config import Account, NatsUser
from webhost_local.ports import LOOPBACK, free_port
from webhost_local.postgres_server import Cluster, run_as

from bench.harness import NotMeasured

READY_S = 300.0
STOP_S = 20.0
PASSWORD = "for-benchmarks"
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def process(
    name: str,
    command: Sequence[str | Path],
    *,
    directory: Path,
    is_ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Generator[int]:
    """Run a process until the block ends; yields its pid once it is ready.

    Its output goes to `<directory>/<name>.log`. Raises NotMeasured, with the log's end, when it
    dies or is not ready in time. To be called from the main thread.
    """
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [os.fspath(part) for part in command],
            env=None if env is None else {**os.environ, **env},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            preexec_fn=tied_to_parent(),
        )
    try:
        deadline = time.monotonic() + READY_S
        while not is_ready():
            if child.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace")[-1500:]
                raise NotMeasured(f"{name} is not ready (exit code {child.poll()}): {last}")
            time.sleep(0.05)
        yield child.pid
    finally:
        child.send_signal(stop_signal)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@dataclass(frozen=True)
class Infrastructure:
    """A NATS server with several empty accounts, and a Postgres; both durable."""

    directory: Path
    nats_port: int
    cluster: Cluster
    nats_pid: int
    postgres_pid: int
    """Of the postmaster; its backends are its children."""

    def nats_url(self, account: str) -> str:
        """Return the address of one of ACCOUNTS."""
        return f"nats://{account}:{PASSWORD}@{LOOPBACK}:{self.nats_port}"

    def new_database(self, name: str) -> str:
        """Make an empty database; return its DSN."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.cluster.dsn(name)


ACCOUNTS = ("few", "many", "users", "traced", "front", "ingest", "fold")


@contextmanager
def infrastructure(directory: Path) -> Generator[Infrastructure]:
    """Run NATS and Postgres as a local stack does, on an empty directory."""
    cluster = Cluster(directory / "postgres", free_port(), PASSWORD)
    nats_port = free_port()
    config = directory / "nats.json"
    nats_server.write_config(
        config,
        port=nats_port,
        store_dir=directory / "nats",
        accounts={name.upper(): Account([NatsUser(name, PASSWORD)]) for name in ACCOUNTS},
    )
    cluster.prepare()
    try:
        with (
            process(
                "nats-server",
                nats_server.command(config),
                directory=directory,
                is_ready=lambda: nats_server.is_ready(nats_port),
            ) as nats_pid,
            process(
                "postgres",
                cluster.command(),
                directory=directory,
                is_ready=cluster.is_ready,
                user=run_as(),
                stop_signal=signal.SIGINT,  # does not wait for its clients
            ) as postgres_pid,
        ):
            yield Infrastructure(directory, nats_port, cluster, nats_pid, postgres_pid)
    finally:
        end(processes_working_in(cluster.directory), first=signal.SIGQUIT, grace=3)


@contextmanager
def service(
    module: str,
    directory: Path,
    nats_url: str,
    dsn: str,
    env: Mapping[str, str],
    *,
    until: str = "/readyz",
) -> Generator[int]:
    """Run one of our services as `python -m module`; gives its pid once `until` is answered."""
    operations = free_port()
    variables = {
        "WEBHOST_LOCAL_STACK": "true",
        "MIGRATE_AT_START": "true",
        "WEBHOST_INSTALLATION_ID": "ins_bench",
        "NATS_URL": nats_url,
        "DATABASE_URL": dsn,
        "OPS_LISTEN": f"{LOOPBACK}:{operations}",
        "LOG_LEVEL": "warning",
        "PYTHONPATH": str(ROOT),
        **env,
    }
    name = module.replace("webhost_", "").replace("bench.", "")
    with process(
        name,
        [sys.executable, "-m", module],
        directory=directory,
        is_ready=lambda: answers(operations, until),
        env=variables,
    ) as pid:
        yield pid


def answers(port: int, path: str) -> bool:
    """Say whether a GET of this path is answered with 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def processor_s(pid: int) -> float:
    """Return the processor time that a process and its children have used, ended ones included."""
    own = psutil.Process(pid)
    total = 0.0
    for one in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = one.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def resident_mb(pid: int, *, family: bool = False) -> float:
    """Return the resident memory of a process, or of its children too, in MB (10^6 bytes)."""
    own = psutil.Process(pid)
    total = 0
    for one in (own, *(own.children(recursive=True) if family else ())):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total / 1e6
