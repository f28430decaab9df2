"""The call to a Worker: signed, bounded in time and size, its failures classified.

Consumes: a deployment's invoke address. Emits: one POST, with none of the caller's headers but
`traceparent`.
Guarantees: RuntimeFailed says what went wrong; its subclass NotSent says that no byte of the
request was written, HeldUp that time ran out while the call waited for its caller or for room.
No more of an answer is held than there is room for: see `flow_control`.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import AddrInfoType, hdrs
from webhost_contracts.invoke import MAX_ANSWER_BYTES, InvokeResponse
from webhost_contracts.signatures import INVOKE_SIGNATURE_HEADER
from webhost_kit.clock import now_ms
from webhost_kit.errors import RuntimeFailed
from webhost_kit.keys import Signer
from webhost_kit.process.observability import redact_text
from yarl import URL

from webhost_gateway.flow_control import FREE_BYTES, FlowControl

CONNECT_TIMEOUT_S = 10.0
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a Worker's JSON can raise; the last if it is nested too deeply."""

READ_BYTES = 16 * 1024
RECEIVE_BYTES = 32 * 1024
"""What the system may receive ahead of us on a connection, and so the most of one read."""

SNIPPET_CHARS = 500
SNIPPET_BYTES = 4096

Failure = Literal[
    "network_error", "timeout", "upstream_status", "invalid_response", "session_expired"
]

_response = msgspec.json.Decoder(InvokeResponse)


class NotSent(RuntimeFailed):
    """The connection was not made: no byte of the request was written."""


class HeldUp(RuntimeFailed):
    """Time ran out, and not for want of the agent's answer."""


class WorkerProblem(msgspec.Struct, frozen=True):
    """How the front describes a failure."""

    code: str = ""
    message: str = ""
    retryable: bool | None = None


class WorkerProblemBody(msgspec.Struct, frozen=True):
    """The body of a Worker's failure, and the data of its `error` event."""

    error: WorkerProblem


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
    url: URL
    host: str


class Answer:
    """A Worker's answer of status 200, as it comes in. `held` are the bytes not passed on yet."""

    def __init__(self, response: aiohttp.ClientResponse, host: str, flow: FlowControl) -> None:
        self._response = response
        self._host = host
        self._flow = flow
        self._bytes = 0
        self.held = 0
        self.streamed = response.content_type == "text/event-stream"

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
            announced = self._response.content_length or MAX_ANSWER_BYTES
            await self._flow.reserve(min(announced, MAX_ANSWER_BYTES))
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
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
        return _reported(200, msgspec.json.encode(problem), self._host)


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
        self._first_byte_timeout_s = first_byte_timeout_s
        self._longest_call_s = longest_call_s
        self._address = lru_cache(maxsize=10_000)(self._address_of)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT_ENCODING),
            read_bufsize=READ_BYTES,
            auto_decompress=False,
        )

    def sign_with(self, signer: Signer) -> None:
        """Sign calls with this key from now on."""
        self._signer = signer

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    @asynccontextmanager
    async def answer(self, call: Call) -> AsyncGenerator[Answer]:
        """Call, and give the answer of status 200. Raises RuntimeFailed, NotSent or HeldUp.

        The block is bounded in time. Leaving it before the answer's end cancels the call.
        """
        address = self._address(call.invoke_url)
        try:
            async with asyncio.timeout(self._longest_call_s), self._answer(address, call) as answer:
                yield answer
        except TimeoutError as error:
            kind = HeldUp if call.flow.held_up else RuntimeFailed
            raise _timed_out(address, kind) from error

    @asynccontextmanager
    async def _answer(self, address: _Address, call: Call) -> AsyncGenerator[Answer]:
        headers = {
            hdrs.HOST: address.host,
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ACCEPT: "text/event-stream" if call.streamed else "application/json",
            INVOKE_SIGNATURE_HEADER: self._signer.header(now_ms(), call.deployment_id, call.body),
        }
        if call.traceparent is not None:
            headers["traceparent"] = call.traceparent
        response = await self._post(address, headers, call.body)
        try:
            if response.status != 200:
                raise _reported(response.status, await _beginning(response), address.host)
            yield Answer(response, address.host, call.flow)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _post(
        self, address: _Address, headers: dict[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._first_byte_timeout_s):
                return await self._session.post(
                    address.url, data=body, headers=headers, allow_redirects=False
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            timed_out = isinstance(error, aiohttp.ConnectionTimeoutError)
            raise failed(
                "timeout" if timed_out else "network_error",
                "The agent's runtime could not be reached.",
                address.host,
                kind=NotSent,
            ) from error
        except TimeoutError as error:
            raise _timed_out(address) from error
        except (aiohttp.ClientError, OSError) as error:
            raise failed(
                "network_error", "The connection to the agent broke off.", address.host
            ) from error

    def _address_of(self, invoke_url: str) -> _Address:
        url = URL(invoke_url)
        host = url.host_port_subcomponent or ""
        if self._connect_to is not None:
            name, _, port = self._connect_to.rpartition(":")
            url = url.with_scheme("http").with_host(name).with_port(int(port))
        return _Address(url, host)


def _socket(address: AddrInfoType) -> socket.socket:  # pyright: ignore[reportUnknownParameterType]
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    return made


def _timed_out(address: _Address, kind: type[RuntimeFailed] = RuntimeFailed) -> RuntimeFailed:
    return failed("timeout", "The agent did not answer in time.", address.host, kind=kind)


def failed(
    failure: Failure,
    message: str,
    host: str,
    *,
    status: int | None = None,
    body: bytes = b"",
    retryable: bool | None = None,
    kind: type[RuntimeFailed] = RuntimeFailed,
) -> RuntimeFailed:
    """Return the problem to report to the caller for a failure of the data plane."""
    details: dict[str, Any] = {"failure": failure, "invokeHost": host}
    if status is not None:
        details["upstreamStatus"] = status
    if body:
        text = redact_text(body[:SNIPPET_BYTES].decode("utf-8", "replace"))
        details["upstreamBodySnippet"] = text[:SNIPPET_CHARS]
    if retryable is None:
        retryable = failure in ("network_error", "timeout")
    status_of_ours = 504 if failure == "timeout" else None
    return kind(message, details=details, retryable=retryable, status=status_of_ours)


def _reported(status: int, body: bytes, host: str) -> RuntimeFailed:
    try:
        problem = msgspec.json.decode(body, type=WorkerProblemBody).error
    except UNREADABLE:
        problem = WorkerProblem()
    if problem.code == "SESSION_EXPIRED":
        message = "The session does not exist or has expired."
        return failed("session_expired", message, host, status=status)
    retryable = problem.retryable
    if retryable is None:
        retryable = status == 429 or status >= 500
    message = "The agent failed."
    return failed("upstream_status", message, host, status=status, body=body, retryable=retryable)


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    try:
        while len(body) < SNIPPET_BYTES and (chunk := await response.content.readany()):
            body += chunk
    except (aiohttp.ClientError, OSError):
        pass
    return body
