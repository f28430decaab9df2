"""One request of a user or a back end: its headers, and what its answer carries of CORS."""

from collections.abc import Mapping
from typing import Any

from webhost_kit.http import asgi, problems
from webhost_kit.http.addresses import address_of
from webhost_kit.http.asgi import Headers, Receive, Send
from webhost_kit.http.cors import ALLOWED_HEADERS, ALLOWED_METHODS, EXPOSED_HEADERS
from webhost_kit.http.measured import OTHER
from webhost_kit.process import tracing

MAX_BODY_BYTES = 1024 * 1024
INVOCATION_ID_HEADER = b"x-webhost-invocation-id"

_CORS: Headers = [
    (b"vary", b"Origin"),
    (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode()),
]
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", ", ".join(ALLOWED_METHODS).encode()),
    (b"access-control-allow-headers", ", ".join(ALLOWED_HEADERS).encode()),
    (b"access-control-max-age", b"600"),
]


class Request(asgi.Request):
    """One request of a user, with the CORS headers of its answer.

    `traceparent` is the caller's, or that of the request's own `span`; `trace_id` is of a trace
    that begins here.
    """

    __slots__ = (
        "address",
        "agent_id",
        "authorization",
        "idempotency_key",
        "origin_allowed",
        "route",
        "span",
        "trace_id",
        "traceparent",
    )

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, origins: frozenset[bytes]
    ) -> None:
        super().__init__(scope, receive, send)
        self.address = address_of(scope)
        self.agent_id = ""
        self.route = OTHER
        self.authorization = self.text_header(b"authorization")
        self.idempotency_key = self.text_header(b"idempotency-key")
        self.traceparent = problems.traceparent_from(self.text_header(b"traceparent"))
        self.span = tracing.NO_SPAN
        self.trace_id: str | None = None
        self.origin_allowed = self.headers.get(b"origin") in origins
        if self.origin_allowed:
            self.always += [(b"access-control-allow-origin", self.headers[b"origin"]), *_CORS]

    def name_invocation(self, invocation_id: str) -> None:
        """Let the answer say which invocation it is of."""
        self.always.append((INVOCATION_ID_HEADER, invocation_id.encode()))

    async def preflight(self) -> None:
        """Answer a browser's CORS preflight request."""
        await self.start(204, _PREFLIGHT if self.origin_allowed else [])
        await self.write(b"", more=False)
