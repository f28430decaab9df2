"""The client that keeps a pace: what it charges a server for, and which answers it takes."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import paced
from bench.first_byte import has_data
from bench.load import read_requests, write_requests

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@contextmanager
def server(*, answer: bytes = ANSWER, halts_s: float = 0.0) -> Generator[int]:
    """Answer each request in the order of arrival; halt once, before the 20th."""
    halted = threading.Lock()
    count = 0

    def serve(connection: socket.socket) -> None:
        nonlocal count
        with connection:
            while connection.recv(4096):
                with halted:
                    count += 1
                    if count == 20:
                        time.sleep(halts_s)
                connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join()


def test_every_request_is_made_and_counted_by_its_second():
    with server() as port:
        load = paced.send(port, [REQUEST], rate=100, seconds=2)
    assert load.requests == 200
    assert load.seconds == pytest.approx(2, abs=0.5)
    assert sum(load.by_second) in range(190, 201)


def test_a_halt_is_charged_to_every_call_that_was_due_meanwhile():
    with server(halts_s=0.7) as port:
        load = paced.send(port, [REQUEST], rate=100, seconds=1)
    # Most calls were due within the halt, and the slowest of them waited for all of it.
    assert load.p99_ms > 500
    assert load.p50_ms > 100


def test_more_calls_than_connections_wait_for_one_and_their_time_runs(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(paced, "CONNECTIONS", 1)
    with server(halts_s=0.7) as port:
        load = paced.send(port, [REQUEST], rate=100, seconds=1)
    assert load.requests == 100
    assert load.p50_ms > 100
    # That was not the client's fault.
    assert load.behind_ms < 100


def test_a_refusal_ends_it():
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with server(answer=refusal) as port, pytest.raises(paced.BrokenOff, match="503"):
        paced.send(port, [REQUEST], rate=100, seconds=1)


@pytest.mark.parametrize(
    ("received", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_whole_by_its_length_or_its_last_chunk(received: bytes, whole: bool):
    assert paced.is_whole(received) is whole


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n1f\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n1f\r\ne", True),
    ],
)
def test_the_size_of_a_chunk_is_not_yet_its_first_byte(answer: bytes, found: bool):
    assert has_data(answer) is found


def test_requests_are_read_as_they_were_written(tmp_path: Path):
    requests = [b"POST / HTTP/1.1\r\n\r\n{}\n", b"x\n12\n"]
    assert read_requests(write_requests(tmp_path / "requests", requests)) == requests
