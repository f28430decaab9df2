"""How long the first byte of a streamed answer is awaited, through the gateway and without it.

A call at a time on one connection; both ways have the same client and the same Worker. The rest of
each answer is read before the next call.
"""

import socket
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from statistics import median

from webhost_local.ports import LOOPBACK

from bench.gateways import CALL, Gateway, invoke_path
from bench.harness import Aim, Figure, NotMeasured, interleave
from bench.load import post
from bench.options import Options
from bench.report import progress

CALLS_PER_SECOND = 100
WARM_UP_CALLS = 50
LAST_CHUNK = b"0\r\n\r\n"


def p50_ms(port: int, requests: Sequence[bytes], calls: int) -> float:
    """Make so many calls on a new connection; return the median wait for the first byte."""
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waits = [
            _first_byte_ms(connection, request)
            for request in islice(cycle(requests), WARM_UP_CALLS + calls)
        ]
    return median(waits[WARM_UP_CALLS:])


def _first_byte_ms(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    connection.sendall(request)
    answer = b""
    while not has_data(answer):
        answer += _received(connection, answer)
    took = time.perf_counter() - began
    while not answer.endswith(LAST_CHUNK):
        answer += _received(connection, answer)
    if not answer.startswith(b"HTTP/1.1 200") or b"event: done" not in answer:
        raise NotMeasured(f"no whole stream: {answer[:300]!r}")
    return took * 1e3


def _received(connection: socket.socket, answer: bytes) -> bytes:
    if not (part := connection.recv(65_536)):
        raise NotMeasured(f"the stream broke off: {answer[:300]!r}")
    return part


def has_data(answer: bytes) -> bool:
    """Say whether a byte of a chunked body's first chunk is there, behind the chunk's size."""
    body = answer.partition(b"\r\n\r\n")[2]
    return bool(body.partition(b"\r\n")[2])


def measure(gateway: Gateway, worker_port: int, request: bytes, options: Options) -> Figure:
    """Return what the gateway adds to the first byte; `request` is what the Worker is asked."""
    through = [
        post(f"{invoke_path(agent)}/stream", CALL, gateway.headers(agent))
        for agent in gateway.agents
    ]
    calls = options.seconds * CALLS_PER_SECOND
    waits = interleave(
        options.runs,
        {
            "workerd": partial(p50_ms, worker_port, [request], calls),
            "gateway": partial(p50_ms, gateway.port, through, calls),
        },
        lambda line: progress(f"gateway, first byte of a stream, {line}"),
    )
    gateway.drain()
    return Figure(
        name="gateway: first byte of a stream at 1 connection, p50",
        unit="ms",
        path="client > gateway > workerd",
        limit_path="client > workerd",
        measured=waits["gateway"],
        limit=waits["workerd"],
        reading="difference",
        aim=Aim("at most", 1.2),
    )
