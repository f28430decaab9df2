"""The public origin of the containers, nginx itself, in front of a server that says what it got."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from webhost_contracts.errors import ErrorEnvelope
from webhost_contracts.telemetry import MAX_BODY_BYTES
from webhost_local.ports import free_port

from tests.support.deadline import eventually
from tests.support.origin import origin_check, running_origin
from tests.support.serving import serving

REPORT = "/v1/telemetry/report"
CALL = "/v1/invoke/agt_1"
REFUSED = "/v1/agents/refused"
PLACES = 3
QUIET_S = 0.3
"""After so long without it, something did not happen."""


@dataclass
class Upstream:
    """A server that answers 202 when a body is complete, and at once 401 at REFUSED."""

    begun: list[str] = field(default_factory=list[str])
    """The paths of requests whose head has arrived."""
    clients: list[str] = field(default_factory=list[str])
    """What they say of their clients' addresses."""
    sizes: list[int] = field(default_factory=list[int])
    """How large their bodies were."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["path"])
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        self.clients.append(b"; ".join(forwarded).decode())
        if scope["path"] == REFUSED:
            await self._answer(401, send)
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.sizes.append(size)
        await self._answer(202, send)

    async def _answer(self, status: int, send: Any) -> None:
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
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


@pytest.fixture
def small_origin(server: str) -> Iterator[int]:
    """An origin with few places for each client."""
    with running_origin(server, ORIGIN_CLIENT_CONNECTIONS=str(PLACES)) as port:
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
        async with connected(origin, request(CALL, size=2) + b"a"):

            async def is_called() -> bool:
                return upstream.begun == [CALL]

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


async def holding(stack: AsyncExitStack, port: int, *addresses: str) -> None:
    """Begin a call from each of these addresses."""
    for address in addresses:
        begun = request(CALL, f"X-Forwarded-For: {address}", size=2) + b"a"
        await stack.enter_async_context(connected(port, begun))


async def called(port: int, address: str) -> int:
    async with connected(port, request(CALL, f"X-Forwarded-For: {address}")) as client:
        return await client.status()


@pytest.mark.accept("6.B6")
async def test_one_client_cannot_take_all_connections(
    small_origin: int, upstream: Upstream
) -> None:
    async def held() -> bool:
        return len(upstream.begun) == PLACES

    async def free() -> bool:
        return await called(small_origin, "192.0.2.1") == 202

    async with AsyncExitStack() as stack:
        await holding(stack, small_origin, *["192.0.2.1"] * PLACES)
        await eventually(held, "the calls to have begun")
        one_more = request(CALL, "X-Forwarded-For: 192.0.2.1", "X-Request-Id: req_of_mine")
        async with connected(small_origin, one_more) as client:
            status, error = await client.refusal()
        assert (status, error.error.code, error.error.retryable) == (429, "RATE_LIMITED", True)
        assert error.error.request_id == "req_of_mine"
        assert await called(small_origin, "192.0.2.2") == 202
    await eventually(free, "its places to be free again")


@pytest.mark.accept("6.B6")
async def test_an_ipv6_network_is_one_client(small_origin: int, upstream: Upstream) -> None:
    async def held() -> bool:
        return len(upstream.begun) == PLACES

    async with AsyncExitStack() as stack:
        # Zeros, and the byte of a line's end.
        network = "2001:db8:0:a0a"
        await holding(stack, small_origin, *(f"{network}::{n}" for n in range(1, PLACES + 1)))
        await eventually(held, "the calls to have begun")
        assert await called(small_origin, f"{network}:a0a:a0a:a0a:a0a") == 429
        assert await called(small_origin, "2001:db8:0:a0b::1") == 202


async def test_an_origin_that_is_full_says_so(server: str) -> None:
    with running_origin(server, connections=8, ORIGIN_WORKERS="1") as port:
        async with AsyncExitStack() as stack:
            await holding(stack, port, "192.0.2.1", "192.0.2.2")
            async with connected(port, request(CALL)) as client:
                status, error = await client.refusal()
    assert (status, error.error.code, error.error.retryable) == (503, "UNAVAILABLE", True)


async def test_services_that_are_away_are_unavailable() -> None:
    with running_origin(f"127.0.0.1:{free_port()}") as port:
        for path in (CALL, REPORT, "/v1/agents"):
            async with connected(port, request(path)) as client:
                status, error = await client.refusal()
            assert (status, error.error.code, error.error.retryable) == (503, "UNAVAILABLE", True)


LONG = "a" * 70_000
UNREADABLE = {
    "no request": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "a space in its path": b"GET /v1/a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that leads out": b"GET /../v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long path": request(f"/v1/{LONG}"),
    "a long header": request(CALL, f"X-Long: {LONG}"),
    "no host": b"GET /v1/agents HTTP/1.1\r\n\r\n",
    "a protocol": b"GET /v1/agents HTTP/9.9\r\nHost: a\r\n\r\n",
    "a method": request(CALL, method="TRACE"),
    "a tunnel": request("a:1", method="CONNECT"),
    "an encoding": b"POST /v1/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
    "a chunk": b"POST /v1/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    "two lengths": request(CALL, "Content-Length: 1"),
}


@pytest.mark.parametrize("sent", UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_refused_in_the_contract_s_words(
    origin: int, sent: bytes
) -> None:
    async with connected(origin, sent) as client:
        status, error = await client.refusal()
    assert (status, error.error.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("path", ["/", "/metrics", "/_origin/invalid", "/_origin/none"])
async def test_other_paths_lead_nowhere(origin: int, upstream: Upstream, path: str) -> None:
    async with connected(origin, request(path)) as client:
        status, error = await client.refusal()
    assert (status, error.error.code) == (404, "NOT_FOUND")
    assert upstream.begun == []


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize(
    ("trusted", "said", "client"),
    [
        ("127.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("127.0.0.1", "198.51.100.66, 203.0.113.5", "203.0.113.5"),
        # A node's address in the client's place, and why a wide network is warned of.
        ("127.0.0.0/8", "198.51.100.66, 10.0.0.9", "10.0.0.9"),
        ("0.0.0.0/1", "198.51.100.66, 10.0.0.9", "198.51.100.66"),
        ("192.0.2.1", "203.0.113.5", "127.0.0.1"),
    ],
)
async def test_the_client_is_whom_the_proxy_in_front_saw(
    server: str, upstream: Upstream, trusted: str, said: str, client: str
) -> None:
    with running_origin(server, ORIGIN_TRUSTED_PROXY=trusted) as port:
        assert await called(port, said) == 202
    assert upstream.clients == [client]


def test_an_origin_does_not_start_without_knowing_whom_to_trust(tmp_path: Path) -> None:
    assert origin_check(tmp_path, ORIGIN_TRUSTED_PROXY="127.0.0.1") == ""
    assert "set_real_ip_from" in origin_check(tmp_path, ORIGIN_TRUSTED_PROXY="")


async def test_an_early_answer_arrives_and_its_connection_ends(origin: int) -> None:
    size = 10_000_000
    async with connected(origin, request(REFUSED, size=size) + b"a") as client:
        async with asyncio.timeout(10):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
            # At once, for a client that looks before it sends another request, ...
            assert await client.reader.read() == b""
            # ... and not so that it gets a reset while it is sending this one.
            await client.send(b"a" * (size // 10))
    # Where the body has come, the connection stays.
    async with connected(origin) as client:
        for _ in range(2):
            await client.send(request(REFUSED, size=1000) + b"a" * 1000)
            async with asyncio.timeout(10):
                head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
