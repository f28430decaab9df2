"""Spans of what this process does, and the trace context that goes out with it.

Consumes: `traceparent` (W3C Trace Context, level 1) of whoever calls. Emits: spans, to the recorder
that `trace_export` sets where a collector is configured.
Guarantees: without a recorder nothing is recorded, and nothing of OpenTelemetry imported; the
context that came is passed on as it was. Of a request from outside the trace id is kept, and its
sampled flag is ours: it is drawn once the sender is known, and nothing is recorded before. Between
our services the flag is honoured, so that traces are whole or absent. Nothing here waits.
Attributes are ids, names (an agent's, and those in the code), counts and codes: never what a user
sends, or an agent answers.
"""

import secrets
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from time import time_ns
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from webhost_kit.process.trace_context import SAMPLED, Context, parse

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool
Attributes = Mapping[str, Value]

_MS = 1_000_000


@dataclass(slots=True)
class FinishedSpan:
    """What is exported. Times are Unix nanoseconds; `service` is whose span it is, if not ours.

    `links` are trace contexts. With an `error`, the span failed, for this reason.
    """

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict[str, Value])
    events: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    links: Sequence[Context] = ()
    error: str | None = None
    service: str | None = None


class Recorder(Protocol):
    """Where finished spans go, and how many requests are recorded."""

    def add(self, span: FinishedSpan) -> None:
        """Take a finished span. Never waits."""
        ...

    def samples(self) -> bool:
        """Draw whether a request from outside is recorded."""
        ...


_recorder: Recorder | None = None


def set_recorder(recorder: Recorder | None) -> None:
    """Give finished spans to this recorder from now on; None records nothing."""
    global _recorder
    _recorder = recorder


def is_enabled() -> bool:
    """Say whether spans are recorded."""
    return _recorder is not None


_current: ContextVar[Context | None] = ContextVar("trace", default=None)


def traceparent() -> str | None:
    """Return the context of what is being done, for whatever it sends or states."""
    current = _current.get()
    return None if current is None else current.traceparent


class Span:
    """What a `with` block does, as a span of the trace. It ends with the block, as failed with the
    type of the exception that leaves it, unless `fail` was called. Inside, it is the current one.
    """

    __slots__ = ("_record", "_token", "context")

    def __init__(self, context: Context | None, record: FinishedSpan | None) -> None:
        self.context = context
        self._record = record
        self._token: Token[Context | None] | None = None

    @property
    def recorded(self) -> bool:
        """Say whether anything is recorded of it."""
        return self._record is not None

    @property
    def caller(self) -> Context | None:
        """Return the context that a request from outside came in."""
        return None

    def accept(self, *, keeps_flag: bool = False) -> None:
        """Record a request from outside from now on, if that is drawn: its sender is known.

        `keeps_flag` is for a sender that passes on a context of ours.
        """

    @property
    def traceparent(self) -> str | None:
        """Return what is sent along from within it."""
        return None if self.context is None else self.context.traceparent

    def name(self, name: str) -> None:
        """Change its name, once more is known."""
        if self._record is not None:
            self._record.name = name

    def set(self, name: str, value: Value | None) -> None:
        """Set an attribute, unless the value is None."""
        if self._record is not None and value is not None:
            self._record.attributes[name] = value

    def event(self, name: str) -> None:
        """Note that something happened now."""
        if self._record is not None:
            self._record.events.append((name, time_ns()))

    def fail(self, error_type: str) -> None:
        """Let the span be failed, for a reason of low cardinality."""
        if self._record is not None:
            self._record.error = error_type

    def __enter__(self) -> Self:
        """Make it the current one."""
        if self.context is not None:
            self._token = _current.set(self.context)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End it."""
        if self._token is not None:
            _current.reset(self._token)
        record = self._record
        if record is None:
            return
        if error is not None and record.error is None:
            record.error = error_type_of(error)
        record.end_ns = time_ns()
        if _recorder is not None:
            _recorder.add(record)


def error_type_of(error: BaseException | None) -> str:
    """Return what a failure is called in a span: its own word for it, or its type."""
    return str(getattr(error, "error_type", None) or type(error).__name__)


NO_SPAN = Span(None, None)
"""The span of what belongs to no trace."""


class _Arrival(Span):
    """The span of a request from outside. Until it is accepted, its flag is 0."""

    __slots__ = ("_caller", "_pending")

    def __init__(self, caller: Context | None, pending: FinishedSpan) -> None:
        # A flag that changes needs a span id of its own: W3C Trace Context, 3.2.3.
        keeps = caller is not None and not caller.sampled
        flags = 0 if caller is None else caller.flags & ~SAMPLED
        super().__init__(
            caller if keeps else Context(pending.trace_id, pending.span_id, flags), None
        )
        self._caller = caller
        self._pending = pending

    @property
    def caller(self) -> Context | None:
        return self._caller

    def accept(self, *, keeps_flag: bool = False) -> None:
        recorder, given, pending = _recorder, self._caller, self._pending
        if recorder is None or self.recorded:
            return
        if not (given.sampled if keeps_flag and given is not None else recorder.samples()):
            return
        flags = self.context.flags | SAMPLED
        self.context = Context(pending.trace_id, pending.span_id, flags)
        self._record = pending
        _current.set(self.context)


def span(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    attributes: Attributes | None = None,
) -> Span:
    """Return a span to be entered: a child of the context given, else of the current one.

    Without either there is none.
    """
    if _recorder is None:
        if traceparent is None or (given := parse(traceparent)) is None:
            return NO_SPAN
        return Span(given, None)
    parent = parse(traceparent) or _current.get()
    if parent is None:
        return NO_SPAN
    if not parent.sampled:
        return Span(parent, None)
    record = _begun(name, kind, parent, attributes)
    return Span(Context(record.trace_id, record.span_id, parent.flags), record)


def arriving(
    name: str, *, traceparent: str | None = None, attributes: Attributes | None = None
) -> Span:
    """Return the span of a request from outside, to be entered: of its caller's trace, or of a new
    one. It is recorded only if it is accepted inside, see `Span.accept`; then from here on.
    """
    caller = parse(traceparent)
    if _recorder is None:
        return NO_SPAN if caller is None else Span(caller, None)
    return _Arrival(caller, _begun(name, "server", caller, attributes))


def _begun(
    name: str, kind: Kind, parent: Context | None, attributes: Attributes | None
) -> FinishedSpan:
    return FinishedSpan(
        name=name,
        kind=kind,
        trace_id=secrets.token_hex(16) if parent is None else parent.trace_id,
        span_id=secrets.token_hex(8),
        parent_id=None if parent is None else parent.span_id,
        start_ns=time_ns(),
        attributes=dict(attributes or {}),
    )


def record(
    name: str,
    kind: Kind,
    start_ms: int,
    end_ms: int,
    *,
    parent: Context | None,
    attributes: Attributes | None = None,
    links: Sequence[Context] = (),
    error: str | None = None,
    service: str | None = None,
) -> Context | None:
    """Record what is over, in the parent's trace or in a new one; return its identity.

    Nothing is recorded, and None returned, where the trace is not sampled. Times are Unix
    milliseconds.
    """
    recorder = _recorder
    if recorder is None or (parent is not None and not parent.sampled):
        return None
    trace_id = secrets.token_hex(16) if parent is None else parent.trace_id
    context = Context(trace_id, secrets.token_hex(8), SAMPLED)
    recorder.add(
        FinishedSpan(
            name=name,
            kind=kind,
            trace_id=trace_id,
            span_id=context.span_id,
            parent_id=None if parent is None else parent.span_id,
            start_ns=start_ms * _MS,
            end_ns=max(start_ms, end_ms) * _MS,
            attributes=dict(attributes or {}),
            links=links,
            error=error,
            service=service,
        )
    )
    return context


def log_ids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
    """Add to a log line the ids of the span that it is written in (a processor of structlog's)."""
    current = _current.get()
    if current is not None:
        event.setdefault("trace_id", current.trace_id)
        event.setdefault("span_id", current.span_id)
    return event
