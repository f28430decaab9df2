"""The middleware, as plain ASGI: request ids, CORS, and the last resort for errors."""

from collections.abc import Collection, Sequence
from time import monotonic

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from webhost_kit.errors import InvalidRequest, Problem
from webhost_kit.http import problems
from webhost_kit.http.cors import ALLOWED_HEADERS, ALLOWED_METHODS, EXPOSED_HEADERS
from webhost_kit.http.measured import OTHER, measure
from webhost_kit.process import tracing

log = structlog.get_logger(__name__)

MOST_SHOWN = 200
"""Characters of a method or path in a line of the log."""


def problem_response(problem: Problem, request_id: str) -> Response:
    """Return the answer that carries a problem."""
    return Response(
        problems.body(problem, request_id),
        status_code=problem.status,
        headers=problems.headers(problem),
        media_type=problems.JSON_TYPE,
    )


class RequestId:
    """Gives each request an id, in its headers, in those of its response, and in the logs, and
    measures how long it takes.

    An unexpected failure has already been answered when it gets here; it is logged. Each is a span
    of its caller's trace, or of a new one, which the route accepts (`request.state.span`) once it
    knows the caller.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            return
        headers = MutableHeaders(scope=scope)
        began_s, status = monotonic(), 0
        request_id = problems.request_id_from(headers.get(problems.REQUEST_ID_HEADER))
        headers[problems.REQUEST_ID_HEADER] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[problems.REQUEST_ID_HEADER] = request_id
            await send(message)

        given = problems.traceparent_from(headers.get("traceparent"))
        with (
            tracing.arriving(scope["method"], traceparent=given) as span,
            structlog.contextvars.bound_contextvars(request_id=request_id),
        ):
            scope.setdefault("state", {})["span"] = span
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # Of what anybody can send, only so much.
                shown = {name: scope[name][:MOST_SHOWN] for name in ("method", "path")}
                log.exception("request failed", **shown)
            finally:
                route = getattr(scope.get("route"), "path", OTHER)
                measure(scope["method"], route, status, monotonic() - began_s)
            if span.recorded:
                _describe(span, scope, request_id, status)


def _describe(span: tracing.Span, scope: Scope, request_id: str, status: int) -> None:
    """Say what was requested, by the route that answered, and how it ended."""
    # The path itself holds ids, and may be anybody's text.
    if (route := getattr(scope.get("route"), "path", None)) is not None:
        span.name(f"{scope['method']} {route}")
        span.set("http.route", route)
    span.set("http.request.method", scope["method"])
    span.set("http.response.status_code", status or None)
    span.set("webhost.request.id", request_id)
    if status >= 500:
        span.fail(str(status))


class Cors(CORSMiddleware):
    """CORS for the allowed origins; a refused preflight gets the error envelope. The paths of
    `without` are not for browsers, and get none.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], without: Collection[str] = ()) -> None:
        self._without = without
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["path"] in self._without:
            await self.app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refusal = InvalidRequest("This origin, method or header is not allowed.")
        return problem_response(refusal, request_headers[problems.REQUEST_ID_HEADER])
