"""Spans: whose child each is, what goes out, what is recorded, and what is not."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from webhost_kit.errors import RuntimeFailed, Unavailable
from webhost_kit.http.problems import traceparent_from
from webhost_kit.process import trace_export, tracing
from webhost_kit.process.settings import headers_of
from webhost_kit.process.trace_context import parse
from webhost_kit.process.trace_export import TraceExport
from webhost_kit.process.tracing import FinishedSpan
from webhost_local.ports import free_port

from tests.support.deadline import until
from tests.support.otlp import collector

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


class Recorded(list[FinishedSpan]):
    """What was recorded; of requests from outside all, or none."""

    all = True

    def add(self, span: FinishedSpan) -> None:
        self.append(span)

    def samples(self) -> bool:
        return self.all


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    spans = Recorded()
    tracing.set_recorder(spans)
    yield spans
    tracing.set_recorder(None)


def test_a_span_is_a_child_of_what_it_is_in(recorded: Recorded) -> None:
    with tracing.span("outer", "server", traceparent=SAMPLED, attributes={"a": 1}) as outer:
        with tracing.span("inner", "client") as inner:
            inner.set("b", None)
            assert tracing.traceparent() == inner.traceparent
        assert tracing.traceparent() == outer.traceparent
    assert tracing.traceparent() is None
    first, second = recorded
    assert (second.trace_id, second.parent_id, second.attributes) == (TRACE, CALLER, {"a": 1})
    assert (first.trace_id, first.parent_id, first.attributes) == (TRACE, second.span_id, {})
    assert second.start_ns <= first.start_ns <= first.end_ns <= second.end_ns


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        TRACE,
        SAMPLED.upper(),
        f"{SAMPLED}\n",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
    ],
)
def test_of_a_context_that_is_not_usable_nothing_is_kept(
    recorded: Recorded, value: str | None
) -> None:
    given = traceparent_from(value)
    assert given is None
    with tracing.arriving("begins", traceparent=given) as span:
        span.accept()
    assert [(span.parent_id, span.trace_id == TRACE) for span in recorded] == [(None, False)]


@pytest.mark.parametrize("value", [SAMPLED, UNSAMPLED, f"cc-{TRACE}-{CALLER}-01"])
def test_a_usable_context_is_kept_as_it_was(value: str) -> None:
    assert traceparent_from(value) == value


def test_without_a_caller_a_trace_starts_only_where_it_may(recorded: Recorded) -> None:
    with tracing.span("background", "client") as span:
        assert (span.recorded, tracing.traceparent()) == (False, None)
    with tracing.arriving("request") as request:
        request.accept()
        assert tracing.traceparent() == request.traceparent
    assert [(span.name, span.kind) for span in recorded] == [("request", "server")]


def test_what_is_not_sampled_is_passed_on_and_not_recorded(recorded: Recorded) -> None:
    with tracing.span("request", "server", traceparent=UNSAMPLED):
        assert tracing.traceparent() == UNSAMPLED
        with tracing.span("inner", "client") as inner:
            assert inner.traceparent == UNSAMPLED
    assert recorded == []


CALLERS = [None, SAMPLED, UNSAMPLED, f"00-{'0' * 31}1-{CALLER}-01"]


@pytest.mark.parametrize("given", CALLERS)
def test_nothing_is_recorded_of_a_request_whose_sender_is_not_known(
    recorded: Recorded, given: str | None
) -> None:
    with tracing.arriving("request", traceparent=given) as request:
        inside = parse(tracing.traceparent())
        assert inside is not None
        assert not inside.sampled
        with tracing.span("inner", "client") as inner:
            assert inner.traceparent == request.traceparent
        request.set("text", "of a stranger's")
    assert recorded == []
    assert tracing.traceparent() is None


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("given", CALLERS)
def test_whether_a_known_senders_request_is_recorded_is_drawn_here(
    recorded: Recorded, given: str | None, *, drawn: bool
) -> None:
    recorded.all = drawn
    with tracing.arriving("request", traceparent=given, attributes={"a": 1}) as request:
        request.accept()
        with tracing.span("inner", "client"):
            inside = parse(tracing.traceparent())
    assert inside is not None
    assert inside.sampled is drawn
    assert [span.name for span in recorded] == (["inner", "request"] if drawn else [])
    caller = parse(given)
    assert inside.trace_id == caller.trace_id if caller else inside.trace_id != TRACE
    if drawn:
        assert recorded[1].attributes == {"a": 1}
        assert recorded[1].parent_id == (caller and caller.span_id)
        assert recorded[0].parent_id == recorded[1].span_id
    assert tracing.traceparent() is None


def test_a_flag_that_changes_has_a_span_id_of_its_own(recorded: Recorded) -> None:
    recorded.all = False
    with tracing.arriving("request", traceparent=UNSAMPLED) as request:
        request.accept()
        assert request.traceparent == UNSAMPLED
    with tracing.arriving("request", traceparent=SAMPLED) as request:
        request.accept()
        changed = parse(request.traceparent)
    assert changed is not None
    assert (changed.trace_id, changed.sampled) == (TRACE, False)
    assert changed.span_id != CALLER


@pytest.mark.parametrize("drawn", [True, False])
def test_a_sender_of_ours_decides(recorded: Recorded, *, drawn: bool) -> None:
    recorded.all = drawn
    for given in SAMPLED, UNSAMPLED, None:
        with tracing.arriving("report", traceparent=given) as report:
            report.accept(keeps_flag=True)
            assert report.recorded is (drawn if given is None else given == SAMPLED)


def test_a_span_that_was_accepted_stays_as_it_is(recorded: Recorded) -> None:
    with tracing.arriving("request") as request:
        request.accept()
        first = request.traceparent
        recorded.all = False
        request.accept()
        assert request.traceparent == first
    assert len(recorded) == 1


def test_without_a_recorder_a_callers_context_is_passed_on() -> None:
    with tracing.arriving("request", traceparent=SAMPLED) as span:
        span.accept()
        assert (span.recorded, tracing.traceparent()) == (False, SAMPLED)
        assert tracing.span("inner") is tracing.NO_SPAN
    assert tracing.arriving("request") is tracing.NO_SPAN


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}-01-more",
        SAMPLED.upper(),
    ],
)
def test_what_is_no_trace_context_is_none(value: str | None) -> None:
    assert parse(value) is None


def test_a_failure_is_named_by_its_own_word(recorded: Recorded) -> None:
    for error in (
        ValueError("a secret"),
        Unavailable("away"),
        RuntimeFailed("late", details={"failure": "timeout"}),
    ):
        with pytest.raises(type(error)), tracing.span("step", traceparent=SAMPLED):
            raise error
    assert [span.error for span in recorded] == ["ValueError", "UNAVAILABLE", "timeout"]


def test_what_is_over_is_recorded_with_its_times(recorded: Recorded) -> None:
    parent = parse(SAMPLED)
    link = tracing.record("batch", "consumer", 5, 7, parent=None)
    assert link is not None
    tracing.record("fact", "consumer", 5, 3, parent=parent, links=[link], service="agent")
    batch, fact = recorded
    assert (batch.parent_id, batch.start_ns, batch.end_ns) == (None, 5_000_000, 7_000_000)
    assert (fact.trace_id, fact.parent_id, fact.end_ns) == (TRACE, CALLER, 5_000_000)
    assert tracing.record("x", "client", 1, 2, parent=parse(UNSAMPLED)) is None
    assert len(recorded) == 2


def test_a_line_of_the_log_has_the_ids_of_its_span(recorded: Recorded) -> None:
    lines = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[tracing.log_ids, lines])
    log.info("before")
    with tracing.span("request", "server", traceparent=SAMPLED) as span:
        log.info("inside")
    assert "trace_id" not in lines.entries[0]
    assert span.context is not None
    assert (
        lines.entries[1].items()
        >= {
            "trace_id": TRACE,
            "span_id": span.context.span_id,
        }.items()
    )


_LOGS = """
import structlog
from webhost_kit.process import tracing
from webhost_kit.process.observability import configure_logging
configure_logging("api", log_format={format!r}, level="info")
with tracing.span("request", "server", traceparent={traceparent!r}):
    structlog.get_logger().info("done", token="a secret")
"""


def test_logs_have_them_also_where_nothing_is_recorded() -> None:
    line = json.loads(_logged("json"))
    assert (line["trace_id"], line["span_id"], line["token"]) == (TRACE, CALLER, "[redacted]")
    readable = _logged("console")
    assert f"trace_id={TRACE}" in readable
    assert "span_id" not in readable


def _logged(log_format: str) -> str:
    program = _LOGS.format(format=log_format, traceparent=SAMPLED)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr


def test_the_share_that_is_set_is_recorded_whatever_its_callers_choose() -> None:
    with collector() as receiving:
        for share, least, most in (0.0, 0, 0), (0.25, 380, 620), (1.0, 2_000, 2_000):
            export = TraceExport("x", receiving.url, "", share, "ins_1")
            taken = 0
            for _ in range(2_000):
                with tracing.arriving("one", traceparent=SAMPLED) as span:
                    span.accept()
                    taken += span.recorded
            asyncio.run(export.close())
            assert least <= taken <= most


def test_headers_are_decoded() -> None:
    assert headers_of(" Authorization = Bearer%20x%3D1 ,a=b,") == {
        "authorization": "Bearer x=1",
        "a": "b",
    }
    with pytest.raises(ValueError, match="name=value"):
        headers_of("a secret without a name")


def test_what_is_exported_is_complete_and_redacted() -> None:
    with collector() as receiving:
        export = TraceExport("gateway", receiving.url, "x-token=t", 1.0, "ins_1")
        with tracing.span("outer", "server", traceparent=SAMPLED) as span:
            span.event("happened")
            span.set("text", "whs_secretsecretsecret")
            span.set("no text", "\ud800")
            span.set("long", "ab" * 1_000)
            span.set("long token", f"eyJ{'h' * 97}.{'p' * 399}.{'s' * 99}")
            span.set("key at the end", "ab " * 83 + " sk-0123456789abcdef")
            span.fail("timeout")
        parent, error = span.context, "no whs_secretsecretsecret"
        tracing.record("script", "internal", 1, 2, parent=parent, service="agent", error=error)
        asyncio.run(export.close())
    outer, script = receiving.trace(TRACE)[::-1]
    assert (outer.service, outer.kind, outer.parent_id) == ("gateway", "server", CALLER)
    assert (outer.failed, outer.events) == (True, ("happened",))
    assert outer.attributes == {
        "text": "[redacted]",
        "no text": "?",
        "long": "ab" * 128,
        "long token": "[redacted]",
        "key at the end": "ab " * 83 + " [redac",
        "error.type": "timeout",
    }
    assert (script.service, script.parent_id) == ("agent", outer.span_id)
    assert (outer.namespace, script.namespace) == ("ins_1", "ins_1")
    assert script.attributes == {"error.type": "no [redacted]"}
    assert receiving.headers[0]["x-token"] == "t"


def test_a_span_that_cannot_be_exported_costs_its_batch_and_nothing_later() -> None:
    lost = _counted("webhost_spans_dropped_total", reason="refused")
    with collector() as receiving:
        export = TraceExport("x", receiving.url, "", 1.0, "ins_1")
        export.add(FinishedSpan("bad", "client", TRACE, CALLER, None, start_ns=-1, end_ns=2**80))
        until(
            lambda: _counted("webhost_spans_dropped_total", reason="refused") > lost,
            "the batch to be dropped",
        )
        with tracing.span("good", "server", traceparent=SAMPLED):
            pass
        asyncio.run(export.close())
        assert [span.name for span in receiving.spans] == ["good"]


@dataclass(frozen=True)
class Lost:
    """A collector that takes nothing, and what is said of it."""

    complaint: str
    status: int = 200
    hangs: bool = False
    listens: bool = True


LOST = {
    "hangs": Lost("due to timeout", hangs=True),
    "answers-503": Lost("Service Unavailable", status=503),
    "is-away": Lost("Connection refused", listens=False),
}


@contextmanager
def lost_collector(lost: Lost) -> Iterator[str]:
    """The address of such a collector."""
    with collector() as receiving:
        receiving.status = lost.status
        if lost.hangs:
            receiving.hangs.set()
        yield receiving.url if lost.listens else f"http://127.0.0.1:{free_port()}"


@pytest.mark.accept("10.collector-away")
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_what_a_collector_did_not_take_in_time_is_counted_and_the_log_says_why(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_export, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(trace_export, "DRAIN_S", 0.2)
    dropped = _counted("webhost_spans_dropped_total", reason="refused")
    with lost_collector(lost) as url, capture_logs() as logged:
        export = TraceExport("x", url, "", 1.0, "ins_1")
        for _ in range(3):
            with tracing.arriving("one") as span:
                span.accept()
        until(
            lambda: _counted("webhost_spans_dropped_total", reason="refused") == dropped + 3,
            "the spans to be given up",
        )
        asyncio.run(asyncio.wait_for(export.close(), 2))
    [line] = [line for line in logged if line["event"] == "spans not exported"]
    assert line["spans"] == 3
    assert lost.complaint in line["reason"]


@pytest.mark.accept("10.collector-away")
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_collector_that_takes_nothing_is_not_waited_for(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its thread go on behind the end, and each span is counted once."""
    monkeypatch.setattr(trace_export, "DRAIN_S", 0.2)
    dropped, before = _counted("webhost_spans_dropped_total", reason="full"), _ended()
    with lost_collector(lost) as url:
        export = TraceExport("x", url, "", 1.0, "ins_1")
        most = trace_export.MOST_WAITING + trace_export.BATCH
        for _ in range(most + 1_000):
            with tracing.arriving("one") as span:
                span.accept()
        assert _counted("webhost_spans_dropped_total", reason="full") - dropped >= 1_000
        assert len(export._waiting) <= trace_export.MOST_WAITING
        asyncio.run(asyncio.wait_for(export.close(), 2))
    assert not tracing.is_enabled()
    until(lambda: not export._thread.is_alive(), "the thread to end", seconds=5)
    assert _ended() - before == most + 1_000


def _ended() -> float:
    """How many spans were exported or given up."""
    return _counted("webhost_spans_exported_total") + sum(
        _counted("webhost_spans_dropped_total", reason=reason) for reason in ("full", "refused")
    )


def _counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
