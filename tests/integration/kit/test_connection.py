"""What one connection can make a service keep, on a real socket."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from webhost_kit.http import connection
from webhost_kit.http.connection import MAX_HEAD_BYTES, Connection
from webhost_kit.process.service import Service
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.harness import in_background

MOST_BYTES = 64 * 1024 * 1024
"""What an attacker sends; far more than the buffers of sockets hold."""


async def hello(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def listening(app: Any = hello) -> AsyncIterator[int]:
    port = free_port()
    service = Service("test")
    service.serve(app, f"127.0.0.1:{port}")

    async def reachable() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        await closed(writer)
        return True

    async with in_background(service.run()):
        await eventually(reachable, "the port to be open")
        yield port


async def accepted(port: int, head: bytes, more: bytes) -> tuple[int, bytes]:
    """Send this and then more of the same, until it is refused; how much, and what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    try:
        writer.write(head)
        while sent < MOST_BYTES and not reader.at_eof():
            writer.write(more)
            await writer.drain()
            sent += len(more)
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    try:
        return sent, await reader.read()
    except ConnectionError:
        return sent, b""
    finally:
        await closed(writer)


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"GET / HTTP/1.1\r\nX-One: ", b"a" * 65536),
        (b"GET / HTTP/1.1\r\n", b"X-Many: " + b"a" * 4000 + b"\r\n"),
        (b"GET /", b"a" * 65536),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            b"X-Trailer: " + b"a" * 4000 + b"\r\n",
        ),
    ],
    ids=["one header", "many headers", "the address", "trailers"],
)
async def test_a_head_without_an_end_is_cut(head: bytes, more: bytes) -> None:
    async with listening() as port:
        sent, _ = await asyncio.wait_for(accepted(port, head, more), 20)
    assert sent < MOST_BYTES


async def test_large_heads_and_larger_bodies_pass() -> None:
    head = b"POST / HTTP/1.1\r\nConnection: close\r\nX-Long: " + b"a" * (MAX_HEAD_BYTES // 2)
    body = b"b" * (4 * MAX_HEAD_BYTES)
    length = b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + length + body)
        answer = await asyncio.wait_for(reader.read(), 20)
        await closed(writer)
    assert answer.startswith(b"HTTP/1.1 200 OK")


HEAD_S = 0.5
BODY_S = 1.0
RATE = 64 * 1024


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head has half a second, a body a second and more where it progresses."""
    monkeypatch.setattr(connection, "HEAD_S", HEAD_S)
    monkeypatch.setattr(Connection, "body_s", BODY_S)
    monkeypatch.setattr(connection, "BYTES_PER_S", RATE)


def test_the_times_are_those_of_the_contract() -> None:
    assert (connection.HEAD_S, Connection.body_s, connection.MAX_STALL_S) == (10, 30, 30)


async def until_closed(port: int, begin: bytes, drip: bytes) -> tuple[float, bytes]:
    """Send the beginning, then this again and again; how long that lasted, and what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def dripping() -> None:
        with suppress(ConnectionError):
            writer.write(begin)
            while drip:
                writer.write(drip)
                await writer.drain()
                await asyncio.sleep(HEAD_S / 10)

    began = time.monotonic()
    async with in_background(dripping()):
        answer = bytearray()
        with suppress(ConnectionError):
            while part := await asyncio.wait_for(reader.read(65536), 20):
                answer += part
    await closed(writer)
    return time.monotonic() - began, bytes(answer)


POST = b"POST / HTTP/1.1\r\nX-Request-Id: mine\r\nContent-Length: 1000000\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.accept("6.B4")
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("begin", "drip", "at_least_s", "statuses"),
    [
        (b"", b"", HEAD_S, []),
        (b"GET / HT", b"", HEAD_S, [408]),
        (b"GET / HTTP/1.1\r\nX: ", b"a", HEAD_S, [408]),
        (b"\r\n", b"\r\n", HEAD_S, [408]),
        (POST, b"", BODY_S, [408]),
        (POST + b"a", b"a", BODY_S, [408]),
        (GET + b"GET /", b"a", HEAD_S, [200, 408]),
        (GET, b"\r\n", HEAD_S, [200, 408]),
        (GET + POST, b"a", BODY_S, [200, 408]),
    ],
    ids=[
        *("silent", "half a head", "a dripping head", "line ends", "no body", "a dripping body"),
        *("a second head", "line ends after an answer", "a second body"),
    ],
)
async def test_a_slow_request_ends(
    begin: bytes, drip: bytes, at_least_s: float, statuses: list[int]
) -> None:
    async with listening() as port:
        took, answer = await until_closed(port, begin, drip)
    assert at_least_s - 0.1 < took < at_least_s + 3
    assert [int(s) for s in re.findall(rb"HTTP/1.1 (\d+)", answer)] == statuses
    if 408 in statuses:
        error = msgspec.json.decode(answer.rpartition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["retryable"]) == ("INVALID_REQUEST", True)
        assert f"x-request-id: {error['requestId']}\r\n".encode() in answer
        assert (error["requestId"] == "mine") == (b"X-Request-Id" in begin)


@pytest.mark.usefixtures("hurried")
async def test_the_app_is_told_that_a_slow_client_has_gone() -> None:
    gone = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with listening(waits) as port:
        _, answer = await until_closed(port, POST, b"a")
        await asyncio.wait_for(gone.wait(), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("hurried")
async def test_an_answer_before_the_body_does_not_keep_its_connection() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})

    async with listening(refuses) as port:
        endless = POST.replace(b"1000000", b"1000000000")
        took, answer = await until_closed(port, endless, b"a" * RATE)
    assert took < BODY_S + 1
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_progresses_has_longer() -> None:
    """A second for each 64 KiB, here: what comes at twice that pace is read to its end."""
    size, seconds = 4 * RATE, 2
    head = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        for _ in range(8):
            writer.write(b"b" * (size // 8))
            await writer.drain()
            await asyncio.sleep(seconds / 8)
        answer = await asyncio.wait_for(reader.read(), 5)
        await closed(writer)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("hurried")
async def test_only_the_client_is_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that takes its time over a body, or over its answer, is waited for."""
    monkeypatch.setattr(connection, "BYTES_PER_S", 2**40)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * BODY_S)
        await hello(scope, receive, send)
        await asyncio.sleep(2 * HEAD_S)

    body = b"b" * (8 * RATE)
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    last = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
    async with listening(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body + last)
        answer = await asyncio.wait_for(reader.read(), 10)
        await closed(writer)
    assert answer.count(b"HTTP/1.1 200") == 2


@pytest.mark.usefixtures("hurried")
async def test_a_client_has_its_time_from_when_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "BYTES_PER_S", 2**40)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.8 * BODY_S)
        await hello(scope, receive, send)

    body = b"b" * (8 * RATE)
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    async with listening(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body[1:])
        await asyncio.sleep(2.4 * BODY_S)
        writer.write(body[:1])
        answer = await asyncio.wait_for(reader.read(), 10)
        await closed(writer)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("hurried")
async def test_half_a_request_behind_a_running_one_does_not_end_that() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3 * HEAD_S)
        await hello(scope, receive, send)

    async with listening(slow) as port:
        took, answer = await until_closed(port, GET + b"GET /", b"")
    assert took > 3 * HEAD_S - 0.1
    assert answer.endswith(b"hello")


async def test_there_is_a_most_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as port:
        monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, other in [*kept, (reader, writer)]:
            await closed(other)

        async def answers() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            answer = await reader.read(15)
            await closed(writer)
            return answer.startswith(b"HTTP/1.1 200")

        await eventually(answers, "a place")


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_STALL_S", 0.3)
    gone = asyncio.Event()

    async def floods(scope: Any, receive: Any, send: Any) -> None:
        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watching = asyncio.create_task(watch())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
        while not gone.is_set():
            await send(part)
        await watching

    async with listening(floods) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 10)
        await closed(writer)
