"""`webhost up`: the whole stack, as its user meets it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from webhost_local.child import processes_marked, tied_to_parent
from webhost_local.ports import free_port
from webhost_local.supervisor import MARK

from tests.support.deadline import until

WEBHOST = Path(sys.executable).with_name("webhost")
NAMES = {
    *("nats", "postgres", "edge", "issuer", "api", "gateway", "gateway-2"),
    *("deployer", "telemetry-ingest", "billing"),
}


class Stack:
    """A `webhost up`, which can be started again on the same directory and port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = str(free_port())
        self.start()

    def start(self) -> None:
        up = [WEBHOST, "up", "--port", self._port, "--gateways", "2"]
        with (self.directory / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*up, "--data-dir", self.directory],
                stdout=log,
                stderr=log,
                preexec_fn=tied_to_parent(),
            )
        until(lambda: self.status() is not None, "the stack to be ready", seconds=60)

    def status(self) -> dict[str, Any] | None:
        shown = self._webhost("status", "--json")
        return json.loads(shown.stdout) if shown.returncode == 0 else None

    def pid(self, name: str) -> int:
        status = self.status()
        assert status is not None
        return next(p["pid"] for p in status["processes"] if p["name"] == name)

    def client(self) -> httpx.Client:
        token = self._webhost("token", "alice").stdout.strip()
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {token}"},
        )

    def family(self) -> list[psutil.Process]:
        return processes_marked(MARK, str(self.directory))

    def _webhost(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [WEBHOST, *arguments],
            env=os.environ | {"WEBHOST_DATA_DIR": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    yield stack
    stack.process.terminate()
    stack.process.wait(timeout=60)


def test_the_stack_s_life(stack: Stack) -> None:
    status = stack.status()
    assert status is not None
    assert set(status) == {"origin", "processes", "natsUrl", "postgresDsn", "cloudflare"}
    assert {process["name"] for process in status["processes"]} == NAMES
    assert all(psutil.pid_exists(process["pid"]) for process in status["processes"])

    with stack.client() as client:
        assert client.get("/v1/me").json()["user"]["subject"] == "alice"
        agent = client.post("/v1/agents", json={"name": "kept"}).json()["agent"]

        killed = stack.pid("api")
        os.kill(killed, signal.SIGKILL)
        until(lambda: stack.pid("api") != killed, "a new api")
        until(lambda: client.get("/v1/me").status_code == 200, "it to answer", seconds=20)

    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(timeout=60) == 0
    assert stack.family() == []
    assert stack.status() is None

    stack.start()
    with stack.client() as client:
        found = client.get(f"/v1/agents/{agent['id']}")
        assert found.json()["agent"]["name"] == "kept"
