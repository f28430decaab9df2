"""What one connection can make a service keep, on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from webhost_kit.http import connection
from webhost_kit.http.connection import MAX_HEAD_BYTES
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
