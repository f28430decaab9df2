"""The load generator: wrk with one thread, replaying requests that were made beforehand."""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from webhost_local.ports import LOOPBACK

from bench.harness import NotMeasured
from bench.tools import require

SCRIPT = Path(__file__).with_name("replay.lua")
GRACE_S = 30


class Load(msgspec.Struct, rename="camel", frozen=True):
    """What one run of wrk saw. `refused` answers were not 2xx or 3xx."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        """Return the answered requests per second."""
        return self.requests / self.seconds


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a whole HTTP request, byte for byte."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {LOOPBACK}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def write_requests(file: Path, requests: Iterable[bytes]) -> Path:
    """Write requests for `run`; return the file."""
    with file.open("wb") as output:
        output.writelines(b"%d\n%b" % (len(request), request) for request in requests)
    return file


def run(port: int, requests: Path, *, connections: int, seconds: int) -> Load:
    """Send the requests as fast as they are answered. Raises NotMeasured if any one fails."""
    command = [
        *(require("wrk"), "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT)),
        *(f"http://{LOOPBACK}:{port}", "--", str(requests)),
    ]
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds + GRACE_S
    )
    if finished.returncode != 0:
        raise NotMeasured(f"wrk: {finished.stderr.strip() or finished.stdout.strip()}")
    load = msgspec.json.decode(finished.stdout.splitlines()[-1], type=Load)
    if load.refused or load.broken or not load.requests:
        raise NotMeasured(
            f"of {load.requests} requests {load.refused} were refused, {load.broken} broke off"
        )
    return load
