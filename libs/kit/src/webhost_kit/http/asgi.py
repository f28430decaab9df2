"""One request on a hot path, raw ASGI: bounded bodies, request ids, the error envelope.

Guarantees: a body is bounded before it is read; every answer carries `X-Request-Id`, every
failure the envelope of the contract.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from webhost_kit.errors import PayloadTooLarge, Problem
from webhost_kit.http import problems

log = structlog.get_logger(__name__)

WRITTEN_AT_ONCE = 64 * 1024
"""What the server keeps for a slow client without waiting for it."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client disconnected before it was answered."""


class Request:
    """One request, and the means to answer it.

    `headers` are by lower-case name, the last of several; `always` is added to every answer;
    `status` is that of the answer, 0 before it has begun.
    """

    __slots__ = ("_receive", "_send", "_sent", "always", "headers", "request_id", "status")

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._sent: Headers = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(self._sent)
        self.request_id = problems.request_id_from(self.text_header(b"x-request-id"))
        self.always: Headers = [(b"x-request-id", self.request_id.encode())]
        self.status = 0

    @property
    def started(self) -> bool:
        """Say whether the answer has begun."""
        return self.status != 0

    def only(self, name: bytes) -> bytes | None:
        """Return a header's value, None also where there are several of it."""
        values = [value for sent, value in self._sent if sent == name]
        return values[0] if len(values) == 1 else None

    def text_header(self, name: bytes) -> str | None:
        """Return a header's value as text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def announced(self, most: int) -> int:
        """Return how many bytes the body has, as far as its client says, else `most`."""
        length = self.headers.get(b"content-length", b"")
        if length.isdigit():
            return int(length)
        return most if b"transfer-encoding" in self.headers else 0

    async def body(self, most: int) -> bytes:
        """Return the body of at most this many bytes. Raises PayloadTooLarge, or ClientGone."""
        if self.announced(most) > most:
            raise _too_large(most)
        # A client may send a few bytes at a time: each piece kept as it came would take 40 more.
        body = b""
        collected = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            if len(collected) + len(part) > most:
                raise _too_large(most)
            more = message.get("more_body", False)
            if more or collected:
                collected += part
            else:
                body = part
            # Or it would be kept twice while the rest is waited for.
            del message, part
        return bytes(collected) if collected else body

    async def gone(self) -> None:
        """Return when the client has disconnected. Call only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.always],
            }
        )

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a whole JSON answer. Of a large one, return when its client has taken it."""
        await self.start(
            status,
            [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *(headers or []),
            ],
        )
        if len(body) > WRITTEN_AT_ONCE:
            await self.write(body)
            body = b""
        await self.write(body, more=False)

    async def refuse(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        """Send the error envelope."""
        extra = problems.headers(problem) | dict(headers or {})
        await self.answer(
            problem.status,
            problems.body(problem, self.request_id),
            [(name.lower().encode(), value.encode()) for name, value in extra.items()],
        )

    async def refuse_unexpected(self, error: Exception) -> None:
        """Answer an unexpected error; once the answer has begun it can only be raised."""
        log.error("request failed", request_id=self.request_id, exc_info=error)
        if self.started:
            raise error
        await self.refuse(problems.internal())


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over {most // 1024} KiB.")
