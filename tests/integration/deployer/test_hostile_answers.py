"""What an address that the deployer calls can cost it, whatever answers there."""

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from webhost_deployer.cloudflare import worker_client
from webhost_deployer.cloudflare.failures import BLOCKED_S
from webhost_deployer.cloudflare.worker_client import MAX_ANSWER_BYTES, WorkerClient
from webhost_deployer.provider import ProviderError
from webhost_kit.keys import parse_signers

from tests.unit.deployer.samples import AGENT, DEPLOYMENT, begun

DEADLINE_S = 1.0
MEMORY_BYTES = 2 * 1024 * 1024
BOMB = gzip.compress(bytes(64 * 1024 * 1024))
OK = b"HTTP/1.1 200 OK\r\n"

Writes = AsyncIterator[bytes]


async def bomb() -> Writes:
    yield OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
    yield BOMB


async def endless_body() -> Writes:
    yield OK + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"4000\r\n" + b"x" * 0x4000 + b"\r\n"


async def endless_refusal() -> Writes:
    yield b"HTTP/1.1 500 No\r\n\r\n"
    while True:
        yield b"x" * 0x4000


async def endless_head() -> Writes:
    yield OK
    while True:
        yield b"X-More: " + b"x" * 4000 + b"\r\n"


async def dripping_body() -> Writes:
    yield OK + b"Content-Length: 10000\r\n\r\n"
    while True:
        yield b"x"
        await asyncio.sleep(DEADLINE_S / 10)


async def dripping_head() -> Writes:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
        await asyncio.sleep(DEADLINE_S / 10)


async def silent() -> Writes:
    await asyncio.sleep(10 * DEADLINE_S)
    yield b""


@asynccontextmanager
async def answering(writes: Callable[[], Writes]) -> AsyncGenerator[WorkerClient]:
    """A client whose every call is answered with these bytes."""
    answers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            async for part in writes():
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1")
    signer = parse_signers(f"p1:{'A' * 43}", "test")[0]
    client = WorkerClient(signer, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield client
    finally:
        await client.close()
        server.close()
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)


@pytest.mark.accept("6.B1")
@pytest.mark.parametrize(
    ("writes", "reason"),
    [
        (bomb, "compressed"),
        (endless_body, "over 64 KiB"),
        (endless_refusal, "over 64 KiB"),
        (endless_head, "RemoteProtocolError"),
        (dripping_body, "it took over"),
        (dripping_head, "it took over"),
        (silent, "it took over"),
    ],
)
async def test_no_answer_costs_more_than_its_bound(
    writes: Callable[[], Writes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in bounded time and memory, as something that may pass; purges like probes."""
    monkeypatch.setattr(worker_client, "TIMEOUT_S", DEADLINE_S)
    async with answering(writes) as client:
        for call, about in ((client.probe, begun()), (client.purge, AGENT)):
            tracemalloc.start()
            began = time.monotonic()
            try:
                with pytest.raises(ProviderError, match=reason) as raised:
                    await call("https://w.example/dep/x", about)
                took, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert raised.value.transient
            assert took < 2 * DEADLINE_S
            assert peak < MEMORY_BYTES


@pytest.mark.accept("7.saga.faults")
@pytest.mark.parametrize(
    ("said", "seconds"),
    [(b"7", 7), (b"0", 0), (b"999", BLOCKED_S), (b"9" * 5_000, BLOCKED_S)]
    + [(it, 0) for it in (b"-1", b"1.5", b"\xb2", b"Wed, 21 Oct 2026 07:28:00 GMT", b"")],
)
async def test_how_long_to_wait_is_believed_within_bounds(said: bytes, seconds: int) -> None:
    async def busy() -> Writes:
        yield b"HTTP/1.1 429 No\r\nContent-Length: 0\r\nRetry-After: " + said + b"\r\n\r\n"

    async with answering(busy) as client:
        for call, about in ((client.probe, begun()), (client.purge, AGENT)):
            with pytest.raises(ProviderError) as raised:
                await call("https://w.example/dep/x", about)
            assert (raised.value.transient, raised.value.retry_after_s) == (True, seconds)


def test_the_whole_call_has_ten_seconds() -> None:
    assert worker_client.TIMEOUT_S == 10


async def test_an_answer_of_the_allowed_size_is_read() -> None:
    padded = b'{"deploymentId":"%b"}' % DEPLOYMENT.encode()
    padded += b" " * (MAX_ANSWER_BYTES - len(padded))

    async def writes() -> Writes:
        yield OK + b"Content-Length: %d\r\n\r\n" % len(padded) + padded

    async with answering(writes) as client:
        await client.probe("https://w.example/dep/x", begun())
