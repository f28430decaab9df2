"""The gateway's HTTP/1.1 client, against hosts that do what a test wants, on production's loop."""

import asyncio
import functools
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from webhost_gateway.upstream import pool as pools
from webhost_gateway.upstream.connection import MAX_HEAD_BYTES, BrokenOff, Connection
from webhost_gateway.upstream.pool import NotConnected, Origin, Pool

from tests.support.http_host import LOOPBACK, Host, Peer, Script, certificate, host

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
    connection = await pool.take(where)
    try:
        connection.send(request)
        await connection.head()
        return connection.status, await whole(connection)
    finally:
        pool.give_back(connection)


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


FRAMED = [
    pytest.param(OK, id="length"),
    pytest.param(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n3;a=b\r\nrst\r\n0\r\n\r\n",
        id="chunked",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nfirst\r\n0\r\n"
        b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
        id="trailers",
    ),
    pytest.param(
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\nLink: a\r\n\r\n"
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        id="interim responses",
    ),
]


@pytest.mark.parametrize("answer", FRAMED)
@on_uvloop
async def test_a_whole_response_leaves_its_connection_to_the_next_request(answer: bytes) -> None:
    async with host(answering(answer, SECOND, answer)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == (200, b"first")
        assert await exchange(pool, origin(at)) == (200, b"second")
        assert await exchange(pool, origin(at)) == (200, b"first")
        assert at.connections == 1


@on_uvloop
async def test_trailers_change_nothing_of_the_head() -> None:
    answer = (
        HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nfirst\r\n0\r\nContent-Type: text/event-stream\r\n\r\n"
    )
    async with host(answering(answer)) as at, a_pool() as pool:
        connection = await pool.take(origin(at))
        connection.send(REQUEST)
        await connection.head()
        assert await whole(connection) == b"first"
        assert connection.content_type == b"application/json"
        pool.give_back(connection)


@pytest.mark.parametrize("answer", FRAMED)
@on_uvloop
async def test_bytes_may_come_one_by_one(answer: bytes) -> None:
    async def slowly(peer: Peer) -> None:
        await peer.request()
        for byte in answer:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.gone()

    async with host(slowly) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == (200, b"first")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nfirst", (200, b"first"), id="to the end"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nfirst", (200, b"first"), id="of HTTP/1.0"),
        pytest.param(
            OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), (200, b"first"), id="close"
        ),
        pytest.param(
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\nConnection: close\r\n\r\n",
            (200, b"first"),
            id="close in the trailers",
        ),
        pytest.param(OK.replace(b"1.1", b"1.0"), (200, b"first"), id="length in HTTP/1.0"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", (204, b""), id="204"),
    ],
)
@on_uvloop
async def test_a_response_that_ends_its_connection_is_whole(
    answer: bytes, expected: tuple[int, bytes]
) -> None:
    async with host(closing(answer), answering(SECOND)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == expected
        assert await exchange(pool, origin(at)) == (200, b"second")
        assert at.connections == 2


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200", id="half a head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="an interim response"),
        pytest.param(OK[:-1], id="less than its length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            id="no last chunk",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n",
            id="unended trailers",
        ),
    ],
)
@on_uvloop
async def test_a_response_that_breaks_off_is_no_response_and_nothing_is_sent_again(
    beginning: bytes,
) -> None:
    async with host(closing(beginning), answering(SECOND)) as at, a_pool() as pool:
        with pytest.raises(BrokenOff):
            await exchange(pool, origin(at))
        assert at.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both"
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            id="both, turned",
        ),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nfirst", id="twice"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
            id="a length in the trailers",
        ),
        pytest.param(HEAD + b"Content-Length: 5, 5\r\n\r\nfirst", id="a list"),
        pytest.param(HEAD + b"Content-Length: -5\r\n\r\nfirst", id="negative"),
        pytest.param(HEAD + b"Content-Length: +5\r\n\r\nfirst", id="signed"),
        pytest.param(HEAD + b"Content-Length: 0x5\r\n\r\nfirst", id="hexadecimal"),
        pytest.param(
            HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nfirst", id="beyond 64 bits"
        ),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\nfirst", id="gzip"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
            id="chunked is not last",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
            id="gzip and chunked",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="chunked twice",
        ),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="no chunk size"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirstX\r\n0\r\n\r\n", id="long chunk"
        ),
        pytest.param(HEAD + b"A: b\r\n c\r\nContent-Length: 5\r\n\r\nfirst", id="folded"),
        pytest.param(HEAD + b"Content-Length : 5\r\n\r\nfirst", id="space before the colon"),
        pytest.param(HEAD + b"A: b\x00c\r\nContent-Length: 5\r\n\r\nfirst", id="NUL"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nfirst", id="bare LF"),
        pytest.param(OK.replace(b"1.1", b"2.0"), id="HTTP/2.0"),
        pytest.param(OK.replace(b"200", b"2000"), id="a status of four digits"),
        pytest.param(b"first", id="HTTP/0.9"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + OK,
            id="an upgrade",
        ),
    ],
)
@on_uvloop
async def test_a_response_of_two_meanings_has_none(answer: bytes) -> None:
    async with host(answering(answer)) as at, a_pool() as pool:
        with pytest.raises(BrokenOff):
            await exchange(pool, origin(at))


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(b"A: " + b"b" * 1000, id="one header"),
        pytest.param(b"A: b\r\n" * 100, id="headers"),
        pytest.param(b"A: b\r\n\r\nHTTP/1.1 100 Continue\r\n", id="interim responses"),
    ],
)
@on_uvloop
async def test_a_head_without_end_is_cut(part: bytes) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n")
        while True:
            await peer.send(part)
            sent += len(part)
            await asyncio.sleep(0)

    async with host(endless) as at, a_pool() as pool:
        with pytest.raises(BrokenOff, match="too large"):
            await exchange(pool, origin(at))
        assert sent > MAX_HEAD_BYTES // 2


@pytest.mark.parametrize(
    "part", [b"A: " + b"b" * 1000, b"A: b\r\n" * 100], ids=["one trailer", "trailers"]
)
@on_uvloop
async def test_trailers_without_end_are_cut(part: bytes) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n")
        while True:
            await peer.send(part)
            await asyncio.sleep(0)

    async with host(endless) as at, a_pool() as pool:
        with pytest.raises(BrokenOff, match="too large"):
            await exchange(pool, origin(at))


@on_uvloop
async def test_what_an_interim_response_holds_is_nothing_of_the_response() -> None:
    interim = b"HTTP/1.1 199 Not Yet\r\nContent-Length: 3\r\n\r\nnot"
    async with host(answering(interim + OK)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == (200, b"first")


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
@on_uvloop
async def test_a_response_nobody_asked_for_answers_nothing(at_once: bool) -> None:
    pushed = asyncio.Event()

    async def pushing(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + SECOND if at_once else OK)
        await asyncio.sleep(0.05)
        if not at_once:
            await peer.send(SECOND)
        pushed.set()
        await peer.gone()

    mine = SECOND.replace(b"second", b"itsown")
    async with host(pushing, answering(mine)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == (200, b"first")
        await pushed.wait()
        await asyncio.sleep(0.05)
        assert await exchange(pool, origin(at)) == (200, b"itsown")


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
@on_uvloop
async def test_a_kept_connection_that_its_host_closed_is_not_used(half: bool) -> None:
    closed = asyncio.Event()

    async def short(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if half:
            peer.writer.write_eof()
            closed.set()
            await peer.gone()
        else:
            peer.writer.close()
            closed.set()

    async with host(short, answering(SECOND)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at)) == (200, b"first")
        await closed.wait()
        await asyncio.sleep(0.05)
        assert await exchange(pool, origin(at)) == (200, b"second")
        assert at.connections == 2


@on_uvloop
async def test_concurrent_exchanges_have_connections_of_their_own() -> None:
    async def echo(peer: Peer) -> None:
        while request := await peer.request():
            await peer.send(OK[:-5] + request[-5:])

    def asked(number: int) -> bytes:
        return b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n%05d" % number

    async with host(echo) as at, a_pool() as pool:
        for _ in range(5):
            answers = await asyncio.gather(
                *(exchange(pool, origin(at), asked(number)) for number in range(100))
            )
            assert answers == [(200, b"%05d" % number) for number in range(100)]
        assert at.connections == 100


@on_uvloop
async def test_no_more_is_read_than_is_taken() -> None:
    size, taken_by_system = 20_000_000, 8_000_000
    sent = 0

    async def large(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 50_000):
            await peer.send(b"x" * 50_000)
            sent += 50_000
        await peer.gone()

    async with host(large) as at, a_pool() as pool:
        connection = await pool.take(origin(at))
        connection.send(REQUEST)
        await connection.head()
        await asyncio.sleep(0.3)
        before = sent
        await asyncio.sleep(0.2)
        assert before == sent < taken_by_system
        assert len(await whole(connection)) == size
        pool.give_back(connection)


@on_uvloop
async def test_a_wait_may_be_cancelled_and_begun_again() -> None:
    go_on = asyncio.Event()

    async def halting(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK[:-3])
        await go_on.wait()
        await peer.send(OK[-3:])
        await peer.gone()

    async with host(halting) as at, a_pool() as pool:
        connection = await pool.take(origin(at))
        connection.send(REQUEST)
        await connection.head()
        assert await connection.read() == b"fi"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connection.read()
        go_on.set()
        assert await whole(connection) == b"rst"
        pool.give_back(connection)
        assert connection.usable


@pytest.mark.parametrize("sent", [b"", OK[:20], OK[:-1]], ids=["nothing", "head", "body"])
@on_uvloop
async def test_what_is_cancelled_midway_ends_its_connection(sent: bytes) -> None:
    ended = asyncio.Event()

    async def halting(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.gone()
        ended.set()

    async with host(halting, answering(SECOND)) as at, a_pool() as pool:
        task = asyncio.create_task(exchange(pool, origin(at)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()
        assert await exchange(pool, origin(at)) == (200, b"second")


@on_uvloop
async def test_an_answer_before_the_request_was_taken_ends_the_connection() -> None:
    large = b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000

    async def early(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(OK)
        await asyncio.sleep(0.2)

    async with host(early, answering(SECOND)) as at, a_pool() as pool:
        assert await exchange(pool, origin(at), large) == (200, b"first")
        assert await exchange(pool, origin(at)) == (200, b"second")
        assert at.connections == 2


@on_uvloop
async def test_kept_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "KEPT_S", 0.05)
    ended = asyncio.Event()

    async def watching(peer: Peer) -> None:
        await answering(OK)(peer)
        ended.set()

    async with host(watching) as at, a_pool() as pool:
        await exchange(pool, origin(at))
        await ended.wait()


@on_uvloop
async def test_the_end_closes_every_connection() -> None:
    ended = 0

    async def halting(peer: Peer) -> None:
        nonlocal ended
        await peer.request()
        await peer.send(OK[:-1])
        await peer.gone()
        ended += 1

    async with host(answering(OK), halting) as at, a_pool() as pool:
        under_way = await pool.take(origin(at))
        under_way.send(REQUEST)
        waiting = asyncio.create_task(exchange(pool, origin(at)))
        await asyncio.sleep(0.05)
        pool.close()
        with pytest.raises(BrokenOff):
            await waiting


# Making connections


@on_uvloop
async def test_a_host_that_refuses_or_is_not_there_is_not_connected() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        port = unused.getsockname()[1]
        async with a_pool() as pool:
            for name in (LOOPBACK, "no-such-host.invalid", "a..b", "x" * 64 + ".example"):
                for _ in range(2):
                    with pytest.raises(NotConnected) as refused:
                        await pool.take(Origin(name, port, tls=False))
                    assert not refused.value.timed_out


@on_uvloop
async def test_a_handshake_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "CONNECT_TIMEOUT_S", 0.1)

    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with host(silent) as at, a_pool() as pool:
        with pytest.raises(NotConnected) as late:
            await pool.take(origin(at, tls=True))
        assert late.value.timed_out


@on_uvloop
async def test_of_several_addresses_the_one_that_answers_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with host(answering(OK)) as at, a_pool() as pool:
        loop = asyncio.get_running_loop()
        looked_up = 0

        async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
            nonlocal looked_up
            looked_up += 1
            await asyncio.sleep(0.01)
            answers = [(socket.AF_INET6, "::1"), (socket.AF_INET, LOOPBACK)]
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in answers
            ]

        resolving = _Resolving(loop, getaddrinfo)
        monkeypatch.setattr(pools.asyncio, "get_running_loop", lambda: resolving)
        where = Origin("many.example", at.port, tls=False)
        taken = await asyncio.gather(*(pool.take(where) for _ in range(10)))
        assert looked_up == 1
        monkeypatch.undo()
        for connection in taken:
            pool.give_back(connection)


class _Resolving:
    """A loop with another way to look up names."""

    def __init__(self, loop: asyncio.AbstractEventLoop, getaddrinfo: Any) -> None:
        self._loop = loop
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@on_uvloop
async def test_tls_is_for_the_name_and_by_an_authority_that_is_trusted(tmp_path: Path) -> None:
    server, authority = certificate(tmp_path, "localhost")
    _, another = certificate(tmp_path, "another.example")
    named: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: named.append(name)
    trusting = ssl.create_default_context(cafile=str(authority))
    async with host(answering(OK, SECOND), tls=server) as at:
        async with a_pool(trusting) as pool:
            where = origin(at, "localhost", tls=True)
            assert await exchange(pool, where) == (200, b"first")
            assert await exchange(pool, where) == (200, b"second")
            assert (at.connections, named) == (1, ["localhost"])
            with pytest.raises(NotConnected):  # the certificate is not for this name
                await pool.take(origin(at, LOOPBACK, tls=True))
        for context in (None, ssl.create_default_context(cafile=str(another))):
            async with a_pool(context) as pool:
                with pytest.raises(NotConnected):
                    await pool.take(origin(at, "localhost", tls=True))


@on_uvloop
async def test_a_host_without_tls_is_not_spoken_to_in_its_place() -> None:
    async def clear(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(OK)

    async with host(clear) as at, a_pool() as pool:
        with pytest.raises(NotConnected):
            await pool.take(origin(at, "localhost", tls=True))


@pytest.mark.parametrize("framed", [True, False], ids=["length", "to the end"])
@on_uvloop
async def test_over_tls_nothing_that_came_is_lost_and_an_end_is_no_frame(
    tmp_path: Path, framed: bool
) -> None:
    """A host that sends a large answer and closes, to a reader that is slow."""
    size = 150_000
    server, authority = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=str(authority))
    head = HEAD + (b"Content-Length: %d\r\n\r\n" % size if framed else b"\r\n")

    async def abrupt(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + b"x" * size)
        await asyncio.sleep(0.1)
        peer.writer.transport.abort()

    async with host(abrupt, tls=server) as at, a_pool(trusting) as pool:
        connection = await pool.take(origin(at, "localhost", tls=True))
        connection.send(REQUEST)
        await connection.head()
        await asyncio.sleep(0.3)
        if framed:
            assert len(await whole(connection)) == size
        else:
            with pytest.raises(BrokenOff):
                await whole(connection)
        pool.give_back(connection)


@on_uvloop
async def test_a_body_over_tls_is_cut_off_like_any_other(tmp_path: Path) -> None:
    server, authority = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=str(authority))
    async with host(closing(OK[:-1]), tls=server) as at, a_pool(trusting) as pool:
        with pytest.raises(BrokenOff):
            await exchange(pool, origin(at, "localhost", tls=True))
