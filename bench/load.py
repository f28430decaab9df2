"""The load generators: wrk, as fast as it is answered, and `bench.paced`, at a pace of its own.

Both replay requests that were made beforehand, in one thread.
"""

import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from webhost_local.ports import LOOPBACK

from bench.harness import NotMeasured
from bench.tools import require

SCRIPT = Path(__file__).with_name("replay.lua")
GRACE_S = 30
BUSY = 0.5
"""Of one processor: a paced client that uses more may be what is measured."""


class Load(msgspec.Struct, rename="camel", frozen=True):
    """What one run saw. `refused` answers were not 2xx or 3xx; `cpu_s` is the generator's own.

    Of a paced run alone: 99 % of the requests were sent at most `behind_ms` after the instant when
    they were due and a connection was free, and so many were answered `by_second`.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    cpu_s: float = 0.0
    behind_ms: float = 0.0
    by_second: list[int] = []

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


def read_requests(file: Path) -> list[bytes]:
    """Return the requests of a file that `write_requests` wrote."""
    requests: list[bytes] = []
    with file.open("rb") as source:
        while length := source.readline():
            requests.append(source.read(int(length)))
    return requests


def run(port: int, requests: Path, *, connections: int, seconds: int) -> Load:
    """Send the requests as fast as they are answered. Raises NotMeasured if any one fails."""
    command = [
        *(require("wrk"), "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT)),
        *(f"http://{LOOPBACK}:{port}", "--", str(requests)),
    ]
    before_s = _children_s()
    load = _output("wrk", command, seconds)
    if load.refused or load.broken or not load.requests:
        raise NotMeasured(
            f"of {load.requests} requests {load.refused} were refused, {load.broken} broke off"
        )
    return msgspec.structs.replace(load, cpu_s=_children_s() - before_s)


def paced(port: int, requests: Path, *, rate: float, seconds: int) -> Load:
    """Send so many requests a second. Raises NotMeasured if one fails, or the client is busy."""
    arguments = map(str, (port, requests, rate, seconds))
    load = _output("paced", [sys.executable, "-m", "bench.paced", *arguments], seconds)
    if load.cpu_s > BUSY * load.seconds:
        raise NotMeasured(f"the paced client took {load.cpu_s / load.seconds:.0%} of a processor")
    return load


def _output(name: str, command: Sequence[str], seconds: int) -> Load:
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds + GRACE_S
    )
    if finished.returncode != 0:
        raise NotMeasured(f"{name}: {finished.stderr.strip() or finished.stdout.strip()}")
    return msgspec.json.decode(finished.stdout.splitlines()[-1], type=Load)


def _children_s() -> float:
    # Only what has been waited for counts, which is nothing else meanwhile.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
