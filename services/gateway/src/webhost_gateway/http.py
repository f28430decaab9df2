"""The HTTP door, raw ASGI: paths, headers, bounded bodies, CORS, the error envelope.

Guarantees: every answer carries `X-Request-Id`, every failure the envelope; a body is bounded
before it is read. Answers to browsers of the allowed origins carry the CORS headers, errors too.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from webhost_kit import problems
from webhost_kit.errors import MethodNotAllowed, NotFound, PayloadTooLarge, Problem

from webhost_gateway.ratelimit import TooManyRequests

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 1024 * 1024
PREFIX = "/v1/invoke/"
STREAM_SUFFIX = "/stream"

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, traceparent, last-event-id",
    ),
    (b"access-control-max-age", b"600"),
]


class ClientGone(Exception):
    """The client went away; nobody is left to be answered."""


class Request:
    """One request and the way back to whoever sent it."""

    __slots__ = (
        "_cors",
        "_receive",
        "_send",
        "agent_id",
        "authorization",
        "content_length",
        "request_id",
        "started",
        "traceparent",
    )

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, origins: frozenset[bytes]
    ) -> None:
        self._receive = receive
        self._send = send
        self._cors: Headers = []
        self.agent_id = ""
        self.authorization: str | None = None
        self.content_length = 0
        self.traceparent: str | None = None
        self.started = False
        request_id = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = value.decode("latin-1")
            elif name == b"content-length":
                self.content_length = int(value) if value.isdigit() else 0
            elif name == b"x-request-id":
                request_id = value.decode("latin-1")
            elif name == b"traceparent":
                text = value.decode("latin-1")
                self.traceparent = text if _TRACEPARENT.match(text) else None
            elif name == b"origin" and value in origins:
                self._cors = _cors(value)
        self.request_id = problems.request_id_from(request_id)

    async def body(self) -> bytes:
        """Return the body. Raises PayloadTooLarge, or ClientGone."""
        if self.content_length > MAX_BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                raise _too_large()
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Return when the client has gone away. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.started = True
        request_id = (b"x-request-id", self.request_id.encode())
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, request_id, *self._cors],
            }
        )

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, body: bytes) -> None:
        """Send a whole JSON answer of status 200."""
        await self.start(200, _json(body))
        await self.write(body, more=False)

    async def refuse(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        """Send the error envelope."""
        body = problems.body(problem, self.request_id)
        extra = problems.headers(problem) | dict(headers or {})
        if isinstance(problem, TooManyRequests):
            extra |= problem.headers
        encoded = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        await self.start(problem.status, _json(body) + encoded)
        await self.write(body, more=False)

    async def preflight(self) -> None:
        """Answer a browser's question before its request."""
        await self.start(204, _PREFLIGHT if self._cors else [])
        await self.write(b"", more=False)


Handler = Callable[[Request], Awaitable[None]]


class Door:
    """The ASGI application."""

    def __init__(self, *, invoke: Handler, stream: Handler, origins: tuple[str, ...]) -> None:
        self._invoke = invoke
        self._stream = stream
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send, self._origins)
        try:
            await self._answer(request, scope["method"], scope["path"])
        except ClientGone:
            return
        except MethodNotAllowed as problem:
            await request.refuse(problem, {"Allow": "POST, OPTIONS"})
        except Problem as problem:
            await request.refuse(problem)
        except Exception:
            log.exception("request failed", request_id=request.request_id)
            if request.started:
                raise
            await request.refuse(problems.internal())

    async def _answer(self, request: Request, method: str, path: str) -> None:
        handler = self._invoke
        agent_id = path.removeprefix(PREFIX)
        if agent_id.endswith(STREAM_SUFFIX):
            agent_id = agent_id.removesuffix(STREAM_SUFFIX)
            handler = self._stream
        if not path.startswith(PREFIX) or not agent_id or "/" in agent_id:
            raise NotFound("There is no such address.")
        if method == "OPTIONS":
            await request.preflight()
        elif method != "POST":
            raise MethodNotAllowed("Only POST is allowed here.")
        else:
            request.agent_id = agent_id
            await handler(request)


def _json(body: bytes) -> Headers:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]


def _cors(origin: bytes) -> Headers:
    return [
        (b"access-control-allow-origin", origin),
        (b"vary", b"Origin"),
        (
            b"access-control-expose-headers",
            b"X-Request-Id, Retry-After, RateLimit, RateLimit-Policy",
        ),
    ]


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge("The body is over 1 MiB.")
