"""The public origin of the containers, nginx with its template, in front of one server."""

import re
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from webhost_local.ports import free_port

from bench.tools import require
from tests.support.deadline import until

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "deploy/origin/nginx.conf.template"


def defaults() -> dict[str, str]:
    """What the image fills in where its environment says nothing else."""
    dockerfile = (ROOT / "deploy/origin/Dockerfile").read_text()
    return dict(re.findall(r"\b(ORIGIN_[A-Z_]+)=(\S+)", dockerfile))


def filled_in(directory: Path, **variables: str) -> str:
    """The configuration, with files in this directory."""
    text = TEMPLATE.read_text()
    for name, value in (defaults() | variables).items():
        text = text.replace(f"${{{name}}}", value)
    return text.replace("/tmp/", f"{directory}/")


def origin_check(directory: Path, **variables: str) -> str:
    """What nginx has against the configuration, nothing where it takes it."""
    program = require("nginx")
    config = directory / "nginx.conf"
    config.write_text(filled_in(directory, **variables))
    checked = subprocess.run(
        [program, "-t", "-c", str(config)], check=False, capture_output=True, text=True
    )
    return "" if checked.returncode == 0 else checked.stderr


@contextmanager
def running_origin(
    upstream: str, connections: int | None = None, **variables: str
) -> Generator[int]:
    """Run nginx with every route leading to `upstream`; its port. `connections` are a worker's."""
    program = require("nginx")
    port = free_port()
    address = upstream.removeprefix("http://")
    routes = dict.fromkeys(("ORIGIN_API", "ORIGIN_GATEWAY", "ORIGIN_TELEMETRY"), address)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = directory / "nginx.conf"
        text = filled_in(directory, **(routes | variables))
        text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
        if connections is not None:
            text = re.sub(r"worker_connections \d+", f"worker_connections {connections}", text)
        config.write_text(text.replace("127.0.0.1:8081", f"127.0.0.1:{free_port()}"))
        # As in its container, its workers are whoever starts it.
        process = subprocess.Popen([program, "-c", str(config), "-g", "daemon off; user root;"])
        try:
            until(lambda: _listens(port), "nginx listens")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
