"""Exchanges with hosts that do what a test wants, by the gateway's HTTP/1.1 client."""

import asyncio
import functools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from webhost_gateway.upstream.connection import Connection
from webhost_gateway.upstream.pool import Origin, Pool

from tests.support.http_host import LOOPBACK, Host, Peer, Script

REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
DEADLINE_S = 10


def on_uvloop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await test(*arguments, **named)

        uvloop.run(bounded())

    return run


@asynccontextmanager
async def a_pool(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pool]:
    pool = Pool(tls)
    try:
        yield pool
    finally:
        pool.close()


def origin(at: Host, name: str = LOOPBACK, *, tls: bool = False) -> Origin:
    return Origin(name, at.port, tls)


async def whole(connection: Connection) -> bytes:
    parts: list[bytes] = []
    while part := await connection.read():
        parts.append(part)
    return b"".join(parts)


async def exchange(pool: Pool, where: Origin, request: bytes = REQUEST) -> tuple[int, bytes]:
    connection = await pool.acquire(where)
    try:
        connection.send(request)
        await connection.head()
        return connection.status, await whole(connection)
    finally:
        pool.release(connection)


def answering(*answers: bytes) -> Script:
    """Answer the requests of a connection with these, then wait for its end."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            if not await peer.request():
                return
            await peer.send(answer)
        await peer.gone()

    return script


def closing(answer: bytes) -> Script:
    """Answer one request, and close the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    return script
