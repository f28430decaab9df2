"""The gateway's HTTP/1.1 client: what is a response, and what is none."""

import asyncio
import ssl
from pathlib import Path

import pytest
from webhost_gateway.upstream.connection import MAX_HEAD_BYTES, BrokenOff

from tests.integration.gateway.exchanging import (
    HEAD,
    OK,
    REQUEST,
    SECOND,
    a_pool,
    answering,
    closing,
    exchange,
    on_uvloop,
    origin,
    whole,
)
from tests.support.http_host import Peer, certificate, host

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
        connection = await pool.acquire(origin(at))
        connection.send(REQUEST)
        await connection.head()
        assert await whole(connection) == b"first"
        assert connection.content_type == b"application/json"
        pool.release(connection)


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
        connection = await pool.acquire(origin(at))
        connection.send(REQUEST)
        await connection.head()
        await asyncio.sleep(0.3)
        before = sent
        await asyncio.sleep(0.2)
        assert before == sent < taken_by_system
        assert len(await whole(connection)) == size
        pool.release(connection)


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
        connection = await pool.acquire(origin(at))
        connection.send(REQUEST)
        await connection.head()
        assert await connection.read() == b"fi"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connection.read()
        go_on.set()
        assert await whole(connection) == b"rst"
        pool.release(connection)
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
        connection = await pool.acquire(origin(at, "localhost", tls=True))
        connection.send(REQUEST)
        await connection.head()
        await asyncio.sleep(0.3)
        if framed:
            assert len(await whole(connection)) == size
        else:
            with pytest.raises(BrokenOff):
                await whole(connection)
        pool.release(connection)


@on_uvloop
async def test_a_body_over_tls_is_cut_off_like_any_other(tmp_path: Path) -> None:
    server, authority = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=str(authority))
    async with host(closing(OK[:-1]), tls=server) as at, a_pool(trusting) as pool:
        with pytest.raises(BrokenOff):
            await exchange(pool, origin(at, "localhost", tls=True))
