"""The public origin of the containers, nginx itself, in front of a server that says what it got."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from webhost_contracts.errors import ErrorEnvelope
from webhost_contracts.telemetry import MAX_BODY_BYTES

from tests.support.deadline import eventually
from tests.support.origin import running_origin
from tests.support.serving import serving

REPORT = "/v1/telemetry/report"
QUIET_S = 0.3
"""After so long without it, something did not happen."""


@dataclass
class Upstream:
    """A server that answers 202 to every request, once its body is complete."""

    begun: list[str] = field(default_factory=list[str])
    """The paths of requests whose head has arrived."""
    sizes: list[int] = field(default_factory=list[int])
    """How large their bodies were."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["path"])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.sizes.append(size)
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def server(upstream: Upstream) -> AsyncIterator[str]:
    async with serving(upstream) as url:
        yield url


@pytest.fixture
def origin(server: str) -> Iterator[int]:
    with running_origin(server) as port:
        yield port


@dataclass
class Client:
    """A connection on which anything may be sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, sent: bytes) -> None:
        self.writer.write(sent)
        await self.writer.drain()

    async def status(self) -> int:
        async with asyncio.timeout(10):
            return int((await self.reader.readline()).split()[1])

    async def refusal(self) -> tuple[int, ErrorEnvelope]:
        """The status of an answer, and its error."""
        status, headers = await self.status(), dict[bytes, bytes]()
        async with asyncio.timeout(10):
            while line := (await self.reader.readline()).strip():
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
            body = await self.reader.readexactly(int(headers[b"content-length"]))
        error = msgspec.json.decode(body, type=ErrorEnvelope)
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"x-request-id"].decode() == error.error.request_id
        return status, error


@asynccontextmanager
async def connected(port: int, sent: bytes = b"") -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer)
    await client.send(sent)
    try:
        yield client
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(path: str, *lines: str, size: int = 0, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1", "Host: origin", f"Content-Length: {size}", *lines
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.accept("6.B5")
async def test_a_report_is_sent_on_when_it_is_complete(origin: int, upstream: Upstream) -> None:
    begun = request(REPORT, size=MAX_BODY_BYTES) + b"a" * (MAX_BODY_BYTES - 1)
    async with connected(origin, begun) as slow:
        async with connected(origin, request("/v1/invoke/agt_1", size=2) + b"a"):

            async def is_called() -> bool:
                return upstream.begun == ["/v1/invoke/agt_1"]

            await eventually(is_called, "a call whose body is not complete")
            await asyncio.sleep(QUIET_S)
            assert await is_called()
        await slow.send(b"a")
        assert await slow.status() == 202
    assert upstream.begun[1:] == [REPORT]
    assert upstream.sizes == [MAX_BODY_BYTES]


@pytest.mark.accept("6.B5")
async def test_a_report_that_is_too_large_is_not_read(origin: int, upstream: Upstream) -> None:
    async with connected(origin, request(REPORT, size=66 * 1024)) as client:
        status, error = await client.refusal()
    assert (status, error.error.code) == (413, "PAYLOAD_TOO_LARGE")
    # The service says what else is one.
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{origin}") as http:
        assert (await http.post(REPORT, content=b"a" * (MAX_BODY_BYTES + 1))).status_code == 202
        assert (await http.post("/v1/agents", content=b"a" * 10**7)).status_code == 202
    assert upstream.sizes == [MAX_BODY_BYTES + 1, 10**7]


@pytest.mark.accept("6.B6")
async def test_a_report_that_does_not_come_reaches_nobody(origin: int, upstream: Upstream) -> None:
    async with connected(origin, request(REPORT, size=1000) + b"a") as client:
        async with asyncio.timeout(10):
            await client.reader.read()
    assert upstream.begun == []
