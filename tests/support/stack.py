"""The whole local stack for end-to-end tests: real processes on a temporary directory.

Fixture (session): `stack`, one stack that tests share: use a subject of your own in each test.
Context manager: `running_stack()`, a stack of your own, for tests that change how it runs.
Fault tests: `stack.kill(name)`, or `stack.crash_at(point)` for a named crash point.
With WEBHOST_TEST_NATS_NODES=3 every stack has a cluster of three NATS servers.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from webhost_deployer.cloudflare.rate_limiter import CAPACITY, REFILL_PER_S
from webhost_kit.clock import now_ms
from webhost_kit.keys import base64url
from webhost_local.child import tied_to_parent
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.ports import free_port

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.gate import GATE_PORT

START_S = 90
RESTART_S = 60
STOP_S = 40
TOKEN_S = 3600
_NODES = "--nats-nodes"
DELEGATION_SOURCE, DELEGATION_SECRET = "orchestrator", secrets.token_bytes(32)
"""A back end that may call for users."""


class Stack:
    """A `webhost up` on a directory and a free port; `options` go to it.

    It can be stopped and started again on its data. Its processes are found anew at every look.
    """

    def __init__(self, directory: Path, *options: str, python: str = sys.executable) -> None:
        self.data_dir = directory / "data"
        self.data_dir.mkdir()
        self.crash_file = self.data_dir / "crash"
        self._state = self.data_dir / "stack.json"
        self._port = free_port()
        self.origin = f"http://127.0.0.1:{self._port}"
        self._options = options
        self._python = python
        self._log = directory / "log"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._callers: list[Caller] = []
        # One client for all requests: creating one costs more than a request.
        self._http = httpx.Client(timeout=2)

    def start(self) -> None:
        """Start it; returns when all of it is ready. To be called from the main thread."""
        supervisor = self.launch()
        until(
            lambda: supervisor.poll() is not None or self._all_ready(),
            "the stack to be ready",
            seconds=START_S,
        )
        assert supervisor.poll() is None, "the stack ended at once"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it; returns when its services run, which may never be ready."""
        command = ["up", "--data-dir", str(self.data_dir), "--port", str(self._port)]
        if (nodes := os.environ.get("WEBHOST_TEST_NATS_NODES")) and _NODES not in self._options:
            command += [_NODES, nodes]
        self._state.unlink(missing_ok=True)  # what an earlier run said
        with self._log.open("ab") as output:
            supervisor = self._supervisor = subprocess.Popen(
                [self._python, "-m", "webhost_cli", *command, *self._options],
                env={**environment(), "WEBHOST_CRASH_FILE": str(self.crash_file)},
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=tied_to_parent(signal.SIGTERM),
            )
        until(
            lambda: supervisor.poll() is not None or self._services_run(),
            "the services to be started",
            seconds=START_S,
        )
        assert supervisor.poll() is None, "the stack ended at once"
        return supervisor

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it cleanly, if it runs; return how it ended."""
        assert self._supervisor is not None
        self._supervisor.send_signal(number)
        try:
            return self._supervisor.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
            raise

    @contextmanager
    def frozen(self, *names: str) -> Generator[None]:
        """Processes that take connections and answer nothing, until the block ends."""
        pids = [self.pids()[name] for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            self.until_ready()

    @contextmanager
    def stopped(self, *options: str) -> Generator[None]:
        """It is down for the block, and ready again behind it, from then on with these options."""
        assert self.stop() == 0, self.log_tail()
        yield
        self._options = options or self._options
        self.start()

    def complaints(self, name: str) -> dict[str, str]:
        """What a process's /readyz complains of, by part."""
        try:
            answer = self._http.get(f"{self._process(name)['opsUrl']}/readyz")
        except httpx.TransportError:
            return {}
        return {part: said for part, said in answer.json()["checks"].items() if said != "ok"}

    def log_tail(self, lines: int = 80) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def log(self) -> bytes:
        """All that its processes have written."""
        return self._log.read_bytes()

    def webhost(
        self, *arguments: str, check: bool = True, typed: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a `webhost` command against this stack, with its operator's credentials.

        With `check`, fail with what it said when it does not end well. `typed` is its input.
        """
        ended = subprocess.run(
            [sys.executable, "-m", "webhost_cli", *arguments],
            env={**environment(), "WEBHOST_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            input=typed,
            timeout=60,
            check=False,
        )
        assert not check or ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
        return ended

    def status(self) -> dict[str, Any]:
        """What `webhost status --json` prints."""
        return json.loads(self._state.read_text())["status"]

    def token(self, subject: str) -> str:
        """A JWT that the development issuer's key signed, as `webhost token` prints it."""
        issuer = IssuerIdentity.load_or_make(DataDir.at(self.data_dir))
        return issuer.token(subject, expires_in_s=TOKEN_S)

    def caller(self, subject: str | None = None) -> Caller:
        """A signed-in user, by default one that no test has used before."""
        return self._caller(self.origin, self.token(subject or f"user-{secrets.token_hex(6)}"))

    def unlimited_caller(self, subject: str | None = None) -> Caller:
        """The same, of the tier that refuses nothing."""
        caller = self.caller(subject)
        self.webhost("users", "set-tier", caller.me()["id"], "enterprise")
        until(lambda: caller.me()["tier"] == "enterprise", "the tier to be in force")
        return caller

    def caller_with(self, token: str) -> Caller:
        """A user with this token, on connections of its own."""
        return self._caller(self.origin, token)

    def at_each_gateway(self, caller: Caller) -> list[Caller]:
        """The same user, at each of the gateways by itself."""
        return [self._caller(url, caller.token) for url in self.gateways()]

    def _caller(self, origin: str, token: str) -> Caller:
        self._callers.append(Caller(origin, token))
        return self._callers[-1]

    def close(self) -> None:
        """Close our connections and the callers'."""
        self._http.close()
        for caller in self._callers:
            caller.http.close()

    def crash_at(self, point: str) -> None:
        """Let the first service that reaches this crash point die there, once."""
        self.crash_file.write_text(point)

    def crashed(self) -> bool:
        """Whether a service has died at the point that was asked for."""
        return not self.crash_file.exists()

    def metrics(self, name: str) -> str:
        """What a process's /metrics shows."""
        return self._http.get(f"{self._process(name)['opsUrl']}/metrics").text

    def pids(self) -> dict[str, int]:
        """Every process's id now."""
        return {process["name"]: process["pid"] for process in self.status()["processes"]}

    def all_of(self, kind: str) -> list[str]:
        """The names of every process of this kind."""
        return [name for name in self.pids() if kind_of(name) == kind]

    def kill(self, *names: str) -> None:
        """SIGKILL them; returns when the supervisor has restarted them and all are ready."""
        before = self.pids()
        for name in names:
            os.kill(before[name], signal.SIGKILL)
        until(
            lambda: self.until_replaced(before) >= {*names},
            "dead processes to be restarted",
            seconds=RESTART_S,
        )
        self.until_ready()

    def until_replaced(self, before: dict[str, int]) -> set[str]:
        """Return the names of those that are other processes than `before`, once any is."""

        def replaced() -> set[str]:
            return {name for name, pid in self.pids().items() if before.get(name, pid) != pid}

        until(lambda: bool(replaced()), "a dead process to be restarted", seconds=RESTART_S)
        return replaced()

    def until_deployer_rests(self) -> None:
        """Return when nothing is due at the deployer."""
        due = (
            "SELECT (SELECT count(*) FROM deployer.deployments WHERE due_at_ms <= %(now)s)"
            " + (SELECT count(*) FROM deployer.agent_teardowns WHERE due_at_ms <= %(now)s)"
        )
        until(
            lambda: self._scalar(due, now=now_ms()) == 0,
            "the deployer to rest",
            seconds=RESTART_S,
        )

    def until_calls_are_left(self) -> None:
        """Return when the deployers may make about as many calls to Cloudflare as at the start."""
        left = (
            "SELECT tokens + extract(epoch FROM clock_timestamp() - at) * %(refill)s"
            " FROM deployer.rate_limits WHERE name NOT LIKE '%% user %%'"
        )
        until(
            lambda: (self._scalar(left, refill=REFILL_PER_S) or 0) > 0.9 * CAPACITY,
            "Cloudflare's rate limit to be far away",
            seconds=RESTART_S,
        )

    def _scalar(self, query: str, **parameters: float) -> Any:
        """The first value of a query of Postgres' own user; None where there is no row."""
        with psycopg.connect(self.status()["postgresDsn"], connect_timeout=2) as connection:
            row = connection.execute(query, parameters).fetchone()
        return row[0] if row else None

    def gateways(self) -> list[str]:
        """The base URL of every gateway, past the balancing of the public origin."""
        processes = self.status()["processes"]
        return [p["url"] for p in processes if kind_of(p["name"]) == "gateway"]

    def until_ready(self) -> None:
        """Return when every process answers that it is ready."""
        for process in self.status()["processes"]:
            name = process["name"]
            until(lambda name=name: self._is_ready(name), f"{name} to be ready", seconds=RESTART_S)

    def _all_ready(self) -> bool:
        try:
            return json.loads(self._state.read_text())["ready"]
        except FileNotFoundError:
            return False

    def _services_run(self) -> bool:
        try:
            return "billing" in self.pids()
        except FileNotFoundError:
            return False

    def _process(self, name: str) -> dict[str, Any]:
        [found] = [p for p in self.status()["processes"] if p["name"] == name]
        return found

    def _is_ready(self, name: str) -> bool:
        process = self._process(name)
        if name == "postgres":
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(self.status()["postgresDsn"], connect_timeout=2).close()
                return True
            return False
        url = httpx.URL(process.get("opsUrl") or process["url"])
        if kind_of(name) == "nats":
            with contextlib.suppress(OSError):
                socket.create_connection((url.host, url.port or 0), timeout=2).close()
                return True
            return False
        with contextlib.suppress(httpx.HTTPError):
            return self._http.get(url.join("/readyz")).status_code == 200
        return False


def kind_of(name: str) -> str:
    """What a process is one of: `gateway` is that of `gateway-2`."""
    kind, _, number = name.rpartition("-")
    return kind if number.isdigit() else name


@contextmanager
def running_stack(*options: str, python: str = sys.executable) -> Generator[Stack]:
    """A stack on an empty directory and free ports; `options` go to `webhost up`.

    `python` is the interpreter of another installation of the services. Everything is gone when
    the block ends. To be called from the main thread.
    """
    with tempfile.TemporaryDirectory(prefix="webhost-stack-") as directory:
        stack = Stack(Path(directory), *options, python=python)
        try:
            stack.start()
            yield stack
            # What a service needs it may do: nothing was refused to any of them.
            log = stack.log().decode(errors="replace").splitlines()
            assert [line for line in log if "refused by the " in line] == []
        except BaseException:
            sys.stderr.write(f"\nthe stack's last words:\n{stack.log_tail()}\n")
            raise
        finally:
            stack.close()
            stack.stop()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


def environment() -> dict[str, str]:
    """Ours, without what would lead a command to another stack."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WEBHOST_", "NATS_"))}
    return own | {
        "AGENTS_MAY_REACH": f"127.0.0.1:{GATE_PORT}",
        "DELEGATION_SECRETS": f"{DELEGATION_SOURCE}:{base64url(DELEGATION_SECRET)}",
    }
