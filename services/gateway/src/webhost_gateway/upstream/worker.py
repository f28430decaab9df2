"""The call to a Worker: signed, bounded in time and size, its failures classified.

Consumes: a deployment's invoke address. Emits: one POST, with none of the caller's headers but
`traceparent`.
Guarantees: RuntimeFailed says what went wrong; its subclass NotSent says that no byte of the
request was written, HeldUp that time ran out while the call waited for its caller or for room.
No more of an answer is held than there is room for: see `flow_control`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from urllib.parse import urlsplit

import msgspec
from prometheus_client import Histogram
from webhost_contracts.invoke import MAX_ANSWER_BYTES, InvokeResponse
from webhost_contracts.signatures import INVOKE_SIGNATURE_HEADER
from webhost_kit.clock import now_ms
from webhost_kit.errors import RuntimeFailed
from webhost_kit.keys import Signer
from webhost_kit.process.metrics import CALL_S

from webhost_gateway import spans
from webhost_gateway.flow_control import FREE_BYTES, FlowControl
from webhost_gateway.upstream.connection import BrokenOff, Connection
from webhost_gateway.upstream.failures import (
    SNIPPET_BYTES,
    UNREADABLE,
    HeldUp,
    NotSent,
    WorkerProblemBody,
    failed,
    reported,
    timed_out,
)
from webhost_gateway.upstream.pool import NotConnected, Origin, Pool

_first_byte = Histogram(
    "webhost_gateway_worker_first_byte_seconds",
    "Seconds until a Worker began to answer, a new connection included",
    buckets=CALL_S,
)
_response = msgspec.json.Decoder(InvokeResponse)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: where to, and the body that is signed for that deployment."""

    deployment_id: str
    invoke_url: str
    body: bytes
    streamed: bool
    traceparent: str | None
    flow: FlowControl


@dataclass(frozen=True, slots=True)
class _Address:
    """Where to connect to, the host that is called, and what each request to it begins with."""

    origin: Origin
    host: str
    head: bytes


class Answer:
    """A Worker's answer of status 200, as it comes in. `held` are the bytes not passed on yet."""

    def __init__(self, connection: Connection, host: str, flow: FlowControl) -> None:
        self._connection = connection
        self._host = host
        self._flow = flow
        self._bytes = 0
        self.held = 0
        media_type = connection.content_type.partition(b";")[0].strip().lower()
        self.streamed = media_type == b"text/event-stream"

    async def document(self) -> InvokeResponse:
        """Read and check the whole answer. Raises RuntimeFailed."""
        # Not a list of chunks: many tiny ones would take many times their size.
        body = bytearray()
        while chunk := await self.next_chunk():
            body += chunk
        try:
            return _response.decode(body)
        except UNREADABLE as error:
            message = "The agent's answer is not an invoke/v1 response."
            raise self.invalid(message, bytes(body[:SNIPPET_BYTES])) from error

    async def next_chunk(self) -> bytes:
        """Return what has arrived, empty at the end. May be cancelled and asked again.

        Raises RuntimeFailed when the answer breaks off or is too long.
        """
        if self.held > FREE_BYTES and not self._flow.reserved:
            announced = self._connection.content_length or MAX_ANSWER_BYTES
            await self._flow.reserve(min(announced, MAX_ANSWER_BYTES))
        try:
            chunk = await self._connection.read()
        except BrokenOff as error:
            raise failed("network_error", "The agent's answer broke off.", self._host) from error
        self._bytes += len(chunk)
        self.held += len(chunk)
        if self._bytes > MAX_ANSWER_BYTES:
            raise self.invalid("The agent's answer is over 4 MiB.")
        return chunk

    def passed_on(self, held: int) -> None:
        """Take note of what is still held after a part was written to the caller."""
        self.held = held
        if held <= FREE_BYTES:
            self._flow.release()

    def invalid(self, message: str, body: bytes = b"") -> RuntimeFailed:
        """Return the failure of an answer that is not of the protocol."""
        return failed("invalid_response", message, self._host, status=200, body=body)

    def reported(self, problem: WorkerProblemBody) -> RuntimeFailed:
        """Return the failure that the Worker reported in its stream."""
        return reported(200, msgspec.json.encode(problem), self._host)


class Upstream:
    """The Workers, over one set of kept connections."""

    def __init__(
        self,
        signer: Signer,
        *,
        connect_to: str | None,
        first_byte_timeout_s: float,
        longest_call_s: float,
    ) -> None:
        self._signer = signer
        self._connect_to = connect_to
        # Or the front, which ends by itself what lasts for too long, would say that it failed.
        self._first_byte_timeout_s = min(first_byte_timeout_s, longest_call_s)
        self._longest_call_s = longest_call_s
        self._address = lru_cache(maxsize=10_000)(self._address_of)
        self._pool = Pool()

    def sign_with(self, signer: Signer) -> None:
        """Sign calls with this key from now on."""
        self._signer = signer

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    @asynccontextmanager
    async def answer(self, call: Call) -> AsyncGenerator[Answer]:
        """Call, and give the answer of status 200. Raises RuntimeFailed, NotSent or HeldUp.

        The block is bounded in time. Leaving it before the answer's end cancels the call.
        """
        try:
            address = self._address(call.invoke_url)
        except ValueError as error:
            message = "The agent's runtime has no address that can be called."
            raise failed("network_error", message, "", kind=NotSent) from error
        ends_at = asyncio.get_running_loop().time() + self._longest_call_s
        began_s = monotonic()
        connection: Connection | None = None
        with spans.of_call(address.host) as span:
            try:
                async with asyncio.timeout(self._first_byte_timeout_s) as limit:
                    connection = await self._pool.acquire(address.origin)
                    connection.send(self._request(address, call, span.traceparent))
                    await connection.head()
                    _first_byte.observe(monotonic() - began_s)
                    span.event("first_byte")
                    span.set("http.response.status_code", connection.status)
                    limit.reschedule(ends_at)
                    if connection.status != 200:
                        beginning = await _beginning(connection)
                        raise reported(connection.status, beginning, address.host)
                    yield Answer(connection, address.host, call.flow)
            except TimeoutError as error:
                unsent = NotSent if connection is None else RuntimeFailed
                raise timed_out(address.host, HeldUp if call.flow.held_up else unsent) from error
            except NotConnected as error:
                message = "The agent's runtime could not be reached."
                failure = "timeout" if error.timed_out else "network_error"
                raise failed(failure, message, address.host, kind=NotSent) from error
            except BrokenOff as error:
                message = "The connection to the agent broke off."
                raise failed("network_error", message, address.host, fault="ours") from error
            finally:
                if connection is not None:
                    self._pool.release(connection)

    def _request(self, address: _Address, call: Call, of_span: str | None) -> bytes:
        signature = self._signer.header(now_ms(), call.deployment_id, call.body)
        accept = "text/event-stream" if call.streamed else "application/json"
        trace = of_span or call.traceparent
        traceparent = "" if trace is None else f"traceparent: {trace}\r\n"
        head = (
            f"Accept: {accept}\r\n{INVOKE_SIGNATURE_HEADER}: {signature}\r\n{traceparent}"
            f"Content-Length: {len(call.body)}\r\n\r\n"
        )
        return b"".join((address.head, head.encode(), call.body))

    def _address_of(self, invoke_url: str) -> _Address:
        url = urlsplit(invoke_url)
        if not (invoke_url.isascii() and invoke_url.isprintable() and " " not in invoke_url):
            raise ValueError("an invoke address has characters that none has")
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        ).encode()
        if self._connect_to is None:
            tls = url.scheme == "https"
            origin = Origin(url.hostname or "", url.port or (443 if tls else 80), tls)
        else:
            name, _, port = self._connect_to.rpartition(":")
            origin = Origin(name.strip("[]"), int(port), tls=False)
        return _Address(origin, url.netloc, head)


async def _beginning(connection: Connection) -> bytes:
    body = b""
    try:
        while len(body) < SNIPPET_BYTES and (chunk := await connection.read()):
            body += chunk
    except BrokenOff:
        pass
    return body
