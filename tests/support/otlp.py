"""A collector of traces: takes OTLP over HTTP, as a real one does, and keeps what was exported."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class ReceivedSpan:
    """One span, as it was exported."""

    service: str
    namespace: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    links: tuple[str, ...]
    failed: bool


@dataclass
class Collector:
    """What was received. While it `hangs`, requests are accepted and never answered; with a
    `status` that is no success, all are answered with it.
    """

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list[ReceivedSpan])
    bodies: list[bytes] = field(default_factory=list[bytes])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    requests: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)
    status: int = 200

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of one trace, by their start."""
        found = [span for span in list(self.spans) if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_ns)

    def wait_for(
        self, trace_id: str, *wanted: tuple[str, str], within_s: float = 30
    ) -> list[ReceivedSpan]:
        """Return the trace once it has all these spans, each by its service and name.

        Every process exports by itself: of two spans, that which ends later may be here first.
        """
        ends_at = monotonic() + within_s
        while True:
            spans = self.trace(trace_id)
            there = Counter((span.service, span.name) for span in spans)
            missing = Counter(wanted) - there
            if not missing:
                return spans
            if monotonic() > ends_at:
                raise AssertionError(f"no span {dict(missing)} in {dict(there)}")
            sleep(0.1)


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""
    received, ended = Collector(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if ended.is_set():  # on a connection that was kept
                self.close_connection = True
                return
            received.requests += 1
            while received.hangs.is_set():
                sleep(0.05)
            with suppress(ConnectionError):  # who gave up does not hear it
                if refusal := self._refusal():
                    self.send_error(refusal)
                else:
                    self._take(body)

        def _refusal(self) -> int | None:
            if received.status != 200:
                return received.status
            if self.path != "/v1/traces":
                return 404
            return None if self.headers["Content-Type"] == "application/x-protobuf" else 415

        def _take(self, body: bytes) -> None:
            received.bodies.append(body)
            received.headers.append({k.lower(): v for k, v in self.headers.items()})
            received.spans.extend(_decoded(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        ended.set()
        received.hangs.clear()
        server.shutdown()
        server.server_close()
        thread.join()


def _decoded(body: bytes) -> list[ReceivedSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        ReceivedSpan(
            service=_values(of_resource.resource.attributes)["service.name"],
            namespace=_values(of_resource.resource.attributes)["service.namespace"],
            name=span.name,
            kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex() or None,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes=_values(span.attributes),
            events=tuple(event.name for event in span.events),
            links=tuple(link.span_id.hex() for link in span.links),
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
