"""A loopback HTTP server that a Worker under test calls, and that answers when the test lets it."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from webhost_local.ports import free_port

_LONGEST_S = 30
GATE_PORT = free_port()
"""Where the gate listens, one at a time: all that agents of a test's stack reach on loopback."""


class Gate:
    """`asked` holds the paths in the order of their arrival; each waits until it is opened."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._open: set[str] = set()
        self._all_open = False
        self._changed = threading.Condition()

    def open(self, path: str) -> None:
        """Let this path's requests be answered, those that wait and those to come."""
        with self._changed:
            self._open.add(path)
            self._changed.notify_all()

    def open_all(self) -> None:
        """Let every request be answered."""
        with self._changed:
            self._all_open = True
            self._changed.notify_all()

    def passed(self, path: str) -> bool:
        """Take a request; return when it may be answered, False when it never was let through."""
        with self._changed:
            self.asked.append(path)
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self._all_open or path in self._open, timeout=_LONGEST_S
            )

    def wait_for_requests(self, count: int, *, seconds: float) -> None:
        """Return when so many requests have arrived, answered or not."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.asked) >= count, timeout=seconds)
        assert arrived, f"{len(self.asked)} of {count} requests arrived"


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


@contextmanager
def running_gate() -> Generator[tuple[str, Gate]]:
    """A gate, and the URL below which every path is a request of its own."""
    gate = Gate()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            passed = gate.passed(self.path)
            self.send_response(200 if passed else 504)
            self.send_header("Content-Length", "0")
            # The next gate listens on the same port: none of its requests may come here.
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", GATE_PORT), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{GATE_PORT}", gate
        finally:
            gate.open_all()
            server.shutdown()
            thread.join()
