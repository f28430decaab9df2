"""The gateway's HTTP/1.1 client: its connections, made, kept and ended."""

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from webhost_gateway.upstream import pool as pools
from webhost_gateway.upstream.connection import BrokenOff
from webhost_gateway.upstream.pool import NotConnected, Origin

from tests.integration.gateway.exchanging import (
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
from tests.support.http_host import LOOPBACK, Peer, certificate, host


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
async def test_a_host_that_refuses_or_is_not_there_is_not_connected() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        port = unused.getsockname()[1]
        async with a_pool() as pool:
            for name in (LOOPBACK, "no-such-host.invalid", "a..b", "x" * 64 + ".example"):
                for _ in range(2):
                    with pytest.raises(NotConnected) as refused:
                        await pool.acquire(Origin(name, port, tls=False))
                    assert not refused.value.timed_out


@on_uvloop
async def test_a_handshake_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "CONNECT_TIMEOUT_S", 0.1)

    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with host(silent) as at, a_pool() as pool:
        with pytest.raises(NotConnected) as late:
            await pool.acquire(origin(at, tls=True))
        assert late.value.timed_out


@on_uvloop
async def test_of_several_addresses_the_one_that_answers_is_used() -> None:
    async with host(answering(OK)) as at, a_pool() as pool:
        looked_up = 0

        async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
            nonlocal looked_up
            looked_up += 1
            await asyncio.sleep(0.01)
            answers = [(socket.AF_INET6, "::1"), (socket.AF_INET, LOOPBACK)]
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in answers
            ]

        where = Origin("many.example", at.port, tls=False)
        with looking_up_by(getaddrinfo):
            taken = await asyncio.gather(*(pool.acquire(where) for _ in range(10)))
        assert looked_up == 1
        for connection in taken:
            pool.release(connection)


class _Resolving:
    """A loop with another way to look up names."""

    def __init__(self, loop: asyncio.AbstractEventLoop, getaddrinfo: Any) -> None:
        self._loop = loop
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@contextmanager
def looking_up_by(getaddrinfo: Any) -> Iterator[None]:
    """The pool looks up names in this way inside the block, and connects as ever."""
    resolving = _Resolving(asyncio.get_running_loop(), getaddrinfo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools.asyncio, "get_running_loop", lambda: resolving)
        yield


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
                await pool.acquire(origin(at, LOOPBACK, tls=True))
        for context in (None, ssl.create_default_context(cafile=str(another))):
            async with a_pool(context) as pool:
                with pytest.raises(NotConnected):
                    await pool.acquire(origin(at, "localhost", tls=True))


@on_uvloop
async def test_a_host_without_tls_is_not_spoken_to_in_its_place() -> None:
    async def clear(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(OK)

    async with host(clear) as at, a_pool() as pool:
        with pytest.raises(NotConnected):
            await pool.acquire(origin(at, "localhost", tls=True))


@pytest.mark.parametrize("over_tls", [True, False], ids=["TLS", "clear"])
@on_uvloop
async def test_a_connection_that_ended_is_kept_by_nothing(tmp_path: Path, over_tls: bool) -> None:
    server, authority = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=str(authority))
    last = closing(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
    gc.disable()
    try:
        async with host(last, tls=server if over_tls else None) as at, a_pool(trusting) as pool:
            connection = await pool.acquire(origin(at, "localhost", tls=over_tls))
            connection.send(REQUEST)
            await connection.head()
            assert await whole(connection) == b"first"
            pool.release(connection)
            gone = asyncio.Event()
            kept = weakref.ref(connection, lambda _: gone.set())
            del connection
            await gone.wait()
            assert kept() is None
    finally:
        gc.enable()


@on_uvloop
async def test_the_end_closes_what_is_kept_and_what_is_in_use() -> None:
    ended = asyncio.Semaphore(0)

    async def answered(peer: Peer) -> None:
        await answering(OK)(peer)
        ended.release()

    async def halting(peer: Peer) -> None:
        await answering(OK[:-1])(peer)
        ended.release()

    async with host(answered, halting) as at, a_pool() as pool:
        kept, under_way = [await pool.acquire(origin(at)) for _ in range(2)]
        for connection in (kept, under_way):
            connection.send(REQUEST)
            await connection.head()
        assert await whole(kept) == b"first"
        pool.release(kept)
        assert kept.usable
        waiting = asyncio.create_task(whole(under_way))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(BrokenOff):
            await waiting
        for _ in range(2):
            await ended.acquire()


@on_uvloop
async def test_only_a_name_that_was_found_is_remembered_and_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "RESOLVED_S", 1.0)
    async with host(answering(OK)) as at, a_pool() as pool:
        looked_up = 0

        async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
            nonlocal looked_up
            looked_up += 1
            if looked_up == 1:
                raise socket.gaierror(socket.EAI_AGAIN, "try again")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOOPBACK, port))]

        where = Origin("once.example", at.port, tls=False)
        with looking_up_by(getaddrinfo):
            with pytest.raises(NotConnected):
                await pool.acquire(where)
            for _ in range(2):
                pool.release(await pool.acquire(where))
            assert looked_up == 2
            while looked_up == 2:
                pool.release(await pool.acquire(where))
                await asyncio.sleep(0.05)
