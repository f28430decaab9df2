"""The HTTP endpoint, raw ASGI.

Consumes: `POST /v1/telemetry/report`. Emits: 202 with the receipt, or the error envelope.
Guarantees: headers, and how often their sender's address has failed, are checked before the body is
read; see `webhost_kit.http.asgi` for the bounds. Where a credential is there more than once none
counts: a proxy before us may go by another of them than we.
Nothing says who sends a body before it is complete, so what is kept of large ones is bounded, by
address and in all, until they are answered; none takes longer than BODY_S and a second for each
32 KiB; and one that does not come in whole is a failure of its address. Our Workers' reports are
small: those of others at their address take nothing of their room.
No CORS headers: no browser posts here.
On replay: see `reports`.
"""

from time import monotonic
from typing import Any

import msgspec
from prometheus_client import Counter
from webhost_contracts import signatures
from webhost_contracts.telemetry import MAX_BODY_BYTES
from webhost_kit.errors import MethodNotAllowed, NotFound, Problem
from webhost_kit.http import problems
from webhost_kit.http.addresses import address_of
from webhost_kit.http.asgi import ClientGone, Receive, Request, Send
from webhost_kit.http.bodies import Bodies
from webhost_kit.http.connection import Connection
from webhost_kit.http.measured import OTHER, measure
from webhost_kit.process import tracing
from webhost_kit.process.tracing import Span

from webhost_telemetry_ingest.decisions import Credentials
from webhost_telemetry_ingest.reports import Reports

PATH = "/v1/telemetry/report"
_NAME = f"POST {PATH}"
_ROUTE = {"http.request.method": "POST", "http.route": PATH}

SMALL_BYTES = 8 * 1024
"""A body of up to so many needs no room: what is accepted fits in, as Workers write it."""
ADDRESS_BYTES = 1024 * 1024
TOTAL_BYTES = 16 * 1024 * 1024
BODY_S = 5.0

_requests = Counter(
    "webhost_ingest_requests_total", "Requests that were handled, refused ones included"
)

_DEPLOYMENT = signatures.TELEMETRY_DEPLOYMENT_HEADER.lower().encode()
_SIGNATURE = signatures.TELEMETRY_SIGNATURE_HEADER.lower().encode()


class ReportConnection(Connection):
    """A report is small: its body is there at once, or comes from nobody of ours."""

    body_s = BODY_S


class ReportApp:
    """The ASGI application."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._bodies = Bodies(
            ADDRESS_BYTES,
            TOTAL_BYTES,
            "Too many large reports are arriving; try again shortly.",
            small_bytes=SMALL_BYTES,
            waits=False,
        )

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began_s = monotonic()
        request = Request(scope, receive, send)
        route = PATH if scope["path"] == PATH else OTHER
        given = problems.traceparent_from(request.text_header(b"traceparent"))
        with tracing.arriving(_NAME, traceparent=given, attributes=_ROUTE) as span:
            try:
                if route is OTHER:
                    raise NotFound("There is no such address.")
                if scope["method"] != "POST":
                    raise MethodNotAllowed("Only POST is allowed here.")
                await self._accept(request, address_of(scope), span)
            except ClientGone:
                return
            except MethodNotAllowed as problem:
                await request.refuse(problem, {"Allow": "POST"})
            except Problem as problem:
                span.set("webhost.error.code", problem.code)
                if problem.status >= 500:
                    span.fail(problem.error_type)
                await request.refuse(problem)
            except Exception as error:
                await request.refuse_unexpected(error)
            finally:
                measure(scope["method"], route, request.status, monotonic() - began_s)
                _requests.inc()
            span.set("http.response.status_code", request.status or None)

    async def _accept(self, request: Request, address: str, span: Span) -> None:
        deployment_id, signature = request.only(_DEPLOYMENT), request.only(_SIGNATURE)
        given = self._reports.credentials(
            address,
            None if deployment_id is None else deployment_id.decode("latin-1"),
            signature,
            request.request_id,
        )
        size = min(request.announced(MAX_BODY_BYTES), MAX_BODY_BYTES)
        # Even to find that no room is needed takes some microseconds.
        if size <= SMALL_BYTES:
            await self._answer(request, given, address, span)
            return
        async with self._bodies.reserve(address, size):
            await self._answer(request, given, address, span)

    async def _answer(self, request: Request, given: Credentials, address: str, span: Span) -> None:
        try:
            body = await request.body(MAX_BODY_BYTES)
        except ClientGone:
            self._reports.uncompleted(given, address)
            raise
        receipt = await self._reports.accept(given, body, address, request.request_id, span)
        await request.answer(202, msgspec.json.encode(receipt))
