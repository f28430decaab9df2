"""An even load, which does not wait for answers: `python -m bench.paced PORT FILE RATE SECONDS`.

Every request has its instant, the next after 1/RATE seconds. It is sent then on an idle connection,
or on the first that becomes idle, and its time counts from that instant: a server that halts for a
while is charged for every call that should have been made meanwhile. The last line of standard
output is a `Load` as JSON. One thread with blocking sockets and select, whose timer is precise to
some 50 µs; event loops wait in whole milliseconds.
"""

import gc
import re
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

import msgspec
from webhost_local.ports import LOOPBACK

from bench.load import Load, read_requests

CONNECTIONS = 128
"""So many calls may be under way, at most; further ones wait, and their time runs.

With fewer calls a second it is as many as these: a server closes a connection that idles for long.
"""
ANSWER_S = 10.0
RECEIVE_BYTES = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class BrokenOff(Exception):
    """An answer was refused, incomplete, or too late."""


def main() -> None:
    """Send the load, and print what became of it."""
    port, file, rate, seconds = sys.argv[1:]
    # Nothing here makes cycles, and a collection would be measured.
    gc.disable()
    load = send(int(port), read_requests(Path(file)), float(rate), float(seconds))
    print(msgspec.json.encode(load).decode())


def send(port: int, requests: list[bytes], rate: float, seconds: float) -> Load:
    """Send `rate` requests a second for so long. Raises BrokenOff at the first one that fails."""
    connections = min(CONNECTIONS, max(1, round(rate)))
    with ExitStack() as stack:
        idle = deque(stack.enter_context(_connected(port)) for _ in range(connections))
        return _send(idle, requests, rate, seconds)


def _send(idle: deque[socket.socket], requests: list[bytes], rate: float, seconds: float) -> Load:
    due: dict[socket.socket, float] = {}
    received: dict[socket.socket, bytes] = {}
    took, behind = array("d"), array("d")
    answered: Counter[int] = Counter()
    total, sent = round(rate * seconds), 0
    used_before = time.process_time()
    began = possible = time.perf_counter()
    while len(took) < total:
        while idle and sent < total and (at := began + sent / rate) <= (now := time.perf_counter()):
            connection = idle.popleft()
            connection.sendall(requests[sent % len(requests)])
            due[connection], received[connection] = at, b""
            behind.append(now - max(at, possible))
            sent += 1
        wait_s = ANSWER_S
        if idle and sent < total:
            wait_s = max(0.0, began + sent / rate - time.perf_counter())
        readable, _, _ = select.select(due, (), (), wait_s)
        if not readable and wait_s == ANSWER_S:
            raise BrokenOff(f"no answer for {ANSWER_S:g} s")
        now = time.perf_counter()
        for connection in readable:
            received[connection] += (part := connection.recv(RECEIVE_BYTES))
            if not part:
                raise BrokenOff("a connection was closed")
            if is_whole(received[connection]):
                took.append(now - due.pop(connection))
                answered[int(now - began)] += 1
                if not idle:
                    possible = now
                idle.append(connection)
    return Load(
        requests=total,
        seconds=time.perf_counter() - began,
        p50_ms=quantiles(took, n=2)[0] * 1e3,
        p99_ms=quantiles(took, n=100)[-1] * 1e3,
        refused=0,
        broken=0,
        cpu_s=time.process_time() - used_before,
        behind_ms=quantiles(behind, n=100)[-1] * 1e3,
        by_second=[answered[second] for second in range(int(seconds))],
    )


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_whole(received: bytes) -> bool:
    """Say whether this is a whole answer. Raises BrokenOff if it is not one of status 200."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise BrokenOff(f"refused: {received[:300]!r}")
    length = _LENGTH.search(head)
    return body.endswith(b"0\r\n\r\n") if length is None else len(body) >= int(length[1])


if __name__ == "__main__":
    try:
        main()
    except (BrokenOff, OSError) as error:
        sys.exit(str(error))
