"""Sends finished spans to a collector by OTLP over HTTP, from a thread of its own.

Consumes: what `tracing` records. Emits: POST `<endpoint>/v1/traces`.
Guarantees: who records never waits: beyond MOST_WAITING spans, and those of a batch that the
collector did not take in time, are dropped and counted. The log says so once in LOG_EVERY_S. The
end of the process waits for at most DRAIN_S. OpenTelemetry is imported where this is made, and not
before: what is there when the process is composed is not looked through for garbage.
"""

import asyncio
import logging
import secrets
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter

from webhost_kit.process import tracing
from webhost_kit.process.observability import redact_text
from webhost_kit.process.settings import headers_of
from webhost_kit.process.tracing import FinishedSpan, Value

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger(__name__)

MOST_WAITING = 4_096
BATCH = 256
EVERY_S = 1.0
LONGEST_TEXT = 256
TIMEOUT_S = 10.0
"""For a batch, with all tries."""
DRAIN_S = 2.0
LOG_EVERY_S = 60.0
_BITS = 32
SWITCH_S = 0.0005
"""How long the thread may keep the interpreter from the event loop: without this, 5 ms."""

_exported = Counter("webhost_spans_exported_total", "Spans that the collector of traces took")
_dropped = Counter(
    "webhost_spans_dropped_total",
    "Spans that were lost: the collector refused them, or was too slow",
    ["reason"],
)


class TraceExport:
    """The recorder of a process where a collector is configured; see `OTEL_…` in the settings."""

    def __init__(
        self, service: str, endpoint: str, headers: str, share: float, installation_id: str
    ) -> None:
        self._endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        self._headers = headers_of(headers)
        self._resource = {"service.name": service, "service.namespace": installation_id}
        self._below = round(share * 2**_BITS)
        self._waiting: deque[FinishedSpan] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._complained_at = -LOG_EVERY_S
        self._complaints = _Complaints()
        self._exporter = _exporter(self._endpoint, self._headers, self._complaints)
        self._convert = _Converter(self._resource)
        for reason in ("full", "refused"):
            _dropped.labels(reason)
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()
        tracing.set_recorder(self)

    def samples(self) -> bool:
        """Draw whether a request from outside is recorded. Its trace id, which the caller may have
        chosen, has no part in that.
        """
        return secrets.randbits(_BITS) < self._below

    def add(self, span: FinishedSpan) -> None:
        """Take a finished span. Never waits."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            _dropped.labels("full").inc()
            return
        waiting.append(span)
        if len(waiting) == BATCH:
            self._wake.set()

    async def close(self) -> None:
        """Send what waits, within a bounded time; then give up what is left, also what is being
        tried again. What comes later is not recorded.
        """
        tracing.set_recorder(None)
        self._ending = True
        self._wake.set()
        ends_at = monotonic() + DRAIN_S
        while self._thread.is_alive() and monotonic() < ends_at:  # noqa: ASYNC110 - a thread
            await asyncio.sleep(0.01)
        left = 0
        while batch := self._next_batch():
            left += len(batch)
        self._exporter.shutdown()
        if left:
            _dropped.labels("full").inc(left)
            log.warning("spans not exported at the end", spans=left)

    def _work(self) -> None:
        while not (self._ending and not self._waiting):
            if not self._ending:
                self._wake.wait(EVERY_S)
            self._wake.clear()
            while batch := self._next_batch():
                self._send(batch)

    def _send(self, batch: list[FinishedSpan]) -> None:
        self._complaints.first = None
        try:
            taken = self._exporter.export(self._convert(batch)).name == "SUCCESS"
        except Exception as error:
            # Nothing may end the thread: what comes later would be lost too.
            self._lost(len(batch), repr(error))
            return
        if taken:
            _exported.inc(len(batch))
        else:
            self._lost(len(batch), self._complaints.first or "no answer")

    def _next_batch(self) -> list[FinishedSpan]:
        batch: list[FinishedSpan] = []
        with suppress(IndexError):  # the thread and the end of the process both take from it
            while len(batch) < BATCH:
                batch.append(self._waiting.popleft())
        return batch

    def _lost(self, spans: int, reason: str) -> None:
        _dropped.labels("refused").inc(spans)
        if monotonic() - self._complained_at >= LOG_EVERY_S:
            self._complained_at = monotonic()
            log.warning("spans not exported", spans=spans, reason=reason)


class _Complaints(logging.Handler):
    """Keeps what the libraries complained about first, for our own line in the log: of a batch that
    was tried again, the last complaint says no more than that it is given up.
    """

    first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()


def _exporter(endpoint: str, headers: dict[str, str], complaints: _Complaints) -> "SpanExporter":
    for name in ("opentelemetry", "urllib3"):
        library = logging.getLogger(name)
        library.addHandler(complaints)
        library.propagate = False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, headers=headers, timeout=TIMEOUT_S)


class _Converter:
    """Makes spans of OpenTelemetry's of ours."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        self._common = dict(resource)
        self._resource_of = Resource
        self._resources: dict[str | None, Resource] = {None: Resource(dict(resource))}
        self._scope = InstrumentationScope("webhost")
        self._kinds = {kind.name.lower(): kind for kind in SpanKind}
        self._span, self._context, self._event, self._link = ReadableSpan, SpanContext, Event, Link
        self._unset, self._failed = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
        self._sampled = TraceFlags(TraceFlags.SAMPLED)

    def __call__(self, spans: Iterable[FinishedSpan]) -> "Sequence[ReadableSpan]":
        """Return what is exported of these."""
        return [self._converted(span) for span in spans]

    def _converted(self, span: FinishedSpan) -> "ReadableSpan":
        resource = self._resources.get(span.service)
        if resource is None:
            named = self._common | {"service.name": span.service or ""}
            resource = self._resources[span.service] = self._resource_of(named)
        attributes: dict[str, Value] = {
            name: _text(value) if isinstance(value, str) else value
            for name, value in span.attributes.items()
        }
        if span.error is not None:
            attributes["error.type"] = _text(span.error)
        parent = span.parent_id
        return self._span(
            name=_text(span.name),
            context=self._identity(span.trace_id, span.span_id, remote=False),
            parent=None if parent is None else self._identity(span.trace_id, parent, remote=True),
            resource=resource,
            attributes=attributes,
            events=[self._event(name, timestamp=at_ns) for name, at_ns in span.events],
            links=[
                self._link(self._identity(link.trace_id, link.span_id, remote=True))
                for link in span.links
            ],
            kind=self._kinds[span.kind],
            status=self._unset if span.error is None else self._failed,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    def _identity(self, trace_id: str, span_id: str, *, remote: bool):
        return self._context(
            int(trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=self._sampled
        )


@lru_cache(maxsize=4_096)  # most are the same in every span
def _text(value: str) -> str:
    """Return what is exported of a text: one that cannot be encoded would cost its whole batch.

    It is cut last: half of a credential no longer looks like one.
    """
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode()
    return redact_text(value)[:LONGEST_TEXT]
