"""A stack of docker-compose.yml with its stand-ins: started, killed piece by piece, removed.

It has a project, ports and volumes of its own. The bus and the edge's API are published too, on
loopback, for the demo's checks. COMPOSE names the command where it is not found.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from webhost_local.ports import free_port
from webhost_local.state import Cloudflare, Status

from tests.support.deadline import until

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
READY_S = 180
KINDS = (
    *("api", "deployer", "gateway", "telemetry-ingest", "billing"),
    *("origin", "nats", "postgres", "edge", "issuer", "lemonsqueezy"),
)
"""Every service of the profile `local` that keeps running."""


class ComposeStack:
    """The containers of one project, made from `directory`'s `.env` and override file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = {name: str(free_port()) for name in ("origin", "issuer", "store", "nats", "edge")}
        self._env = directory / ".env"
        subprocess.run(
            [
                *(sys.executable, "-P", "-m", "webhost_local.compose", str(self._env)),
                *(f"--{name}-port={ports[name]}" for name in ("origin", "issuer", "store")),
            ],
            check=True,
        )
        published = {
            name: {"ports": [f"127.0.0.1:{ports[name]}:{port}"], "networks": [network]}
            for name, port, network in (("nats", 4222, "outside"), ("edge", 8788, "outside"))
        }
        self._override = directory / "published.yml"
        self._override.write_text(yaml.safe_dump({"services": published}))
        values = {name: value or "" for name, value in dotenv_values(self._env).items()}
        self.origin = f"http://127.0.0.1:{ports['origin']}"
        self.issuer = values["JWT_ISSUER"]
        password = values["NATS_PASSWORD_OF_OPERATOR"]
        self.status = Status(
            origin=self.origin,
            processes=[],
            nats_url=f"nats://operator:{password}@127.0.0.1:{ports['nats']}",
            postgres_dsn="",
            cloudflare=Cloudflare(
                api_base_url=f"http://127.0.0.1:{ports['edge']}/client/v4",
                api_token=values["CLOUDFLARE_API_TOKEN"],
                account_id=values["CLOUDFLARE_ACCOUNT_ID"],
                zone_id=values["CLOUDFLARE_ZONE_ID"],
            ),
        )

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run a compose command in the profile `local`; return what it prints."""
        environment = {
            "COMPOSE_PROJECT_NAME": f"webhost-test-{os.getpid()}",
            "FRONT_SUBNET": "172.31.251.0/24",
            "ORIGIN_TRUSTED_PROXY": "172.31.251.1",
            # The builder that every Docker has.
            "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0"),
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME") or name.startswith("DOCKER_")
        }
        done = subprocess.run(
            [
                *(*_command(), "--env-file", str(self._env), "--project-directory", str(ROOT)),
                *("-f", str(FILE), "-f", str(self._override), "--profile", "local", *arguments),
            ],
            env=inherited | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or not check, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def secrets(self) -> list[str]:
        """Every key, password and token of its environment file."""
        marks = ("PASSWORD", "TOKEN", "SECRETS", "KEYS", "KEY")
        values = dotenv_values(self._env)
        named = [v for n, v in values.items() if v and any(mark in n for mark in marks)]
        return [value.rpartition(":")[2] for value in named if len(value) >= 16]

    def container(self, kind: str) -> dict[str, Any]:
        """What the daemon says of a service's container."""
        name = self.compose("ps", "-q", kind).split()[0]
        return json.loads(_docker("inspect", name))[0]

    def is_healthy(self, kind: str) -> bool:
        state = self.container(kind)["State"]
        return state["Running"] and state["Health"]["Status"] == "healthy"

    def until_healthy(self, *kinds: str) -> None:
        for kind in kinds or KINDS:
            until(lambda kind=kind: self.is_healthy(kind), f"{kind} is healthy", seconds=READY_S)

    def kill(self, kind: str) -> None:
        """SIGKILL a container's process; return when another one is healthy in its place.

        As root on the daemon's machine it is the restart policy that brings it back, which leaves
        alone what `docker kill` has killed.
        """
        before = self.container(kind)
        pid = before["State"]["Pid"]
        if os.geteuid() == 0 and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
        else:
            _docker("kill", before["Id"])
            _docker("start", before["Id"])

        def replaced() -> bool:
            state = self.container(kind)["State"]
            return state["Running"] and state["Pid"] not in (0, pid)

        until(replaced, f"{kind} runs again", seconds=60)
        self.until_healthy(kind)


@contextmanager
def running_compose(directory: Path) -> Generator[ComposeStack]:
    """Build and start the stack; remove it, and its volumes, at the end."""
    stack = ComposeStack(directory)
    stack.compose("build")
    try:
        stack.compose("up", "-d", "--no-build")
        stack.until_healthy()
        yield stack
    finally:
        (directory / "log").write_text(stack.compose("logs", "--no-color", check=False))
        stack.compose("down", "--volumes", "--timeout", "5", check=False)


def _command() -> list[str]:
    if given := os.environ.get("COMPOSE"):
        return given.split()
    plugin = subprocess.run(["docker", "compose", "version"], check=False, capture_output=True)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    assert shutil.which("docker-compose"), "neither docker compose nor docker-compose is installed"
    return ["docker-compose"]


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout
