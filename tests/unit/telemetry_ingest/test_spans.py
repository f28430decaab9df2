"""The span of an agent's script: the times that its Worker reported, as far as they can be so."""

from collections.abc import Iterator

import pytest
from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.telemetry import TelemetryReport
from webhost_kit.process import tracing
from webhost_kit.process.trace_context import parse
from webhost_kit.process.tracing import FinishedSpan
from webhost_telemetry_ingest import decisions, spans
from webhost_telemetry_ingest.model import Deployment

CALL = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AT_MS = 1_800_000_000_000
RECEIVED_MS = AT_MS + 400


class Recorded(list[FinishedSpan]):
    """What was recorded."""

    def add(self, span: FinishedSpan) -> None:
        self.append(span)

    def samples(self) -> bool:
        return True


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    found = Recorded()
    tracing.set_recorder(found)
    yield found
    tracing.set_recorder(None)


def made(
    started_at_ms: int | None = None,
    errors: int = 0,
    compute_ms: int = 250,
    timestamp_ms: int = AT_MS,
) -> tuple[TelemetryReport, TelemetryAccepted]:
    report = TelemetryReport(
        user_id="usr_1",
        agent_id="agt_1",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        timestamp_ms=timestamp_ms,
        requests=1,
        llm_tokens=7,
        compute_ms=compute_ms,
        errors=errors,
        event_id="inv_1",
        started_at_ms=started_at_ms,
    )
    known = Deployment(
        version=1,
        user_id="usr_1",
        agent_id="agt_1",
        runtime_provider="cloudflare",
        key_version=1,
        key_generation=1,
    )
    return report, decisions.accept(report, b"", "dep_1", known, RECEIVED_MS)


def reported(made: tuple[TelemetryReport, TelemetryAccepted]) -> None:
    spans.of_agent(*made, parse(CALL), RECEIVED_MS)


@pytest.mark.parametrize(
    ("started_at_ms", "shown_ms"),
    [(None, AT_MS), (AT_MS + 3, AT_MS + 3), (0, AT_MS), (2**53 - 1, AT_MS)],
)
def test_it_has_the_reported_times(
    recorded: Recorded, started_at_ms: int | None, shown_ms: int
) -> None:
    reported(made(started_at_ms=started_at_ms))
    [span] = recorded
    assert (span.start_ns, span.end_ns) == (shown_ms * 10**6, (shown_ms + 250) * 10**6)
    assert (span.service, span.parent_id) == ("agent", "b7ad6b7169203331")
    assert (span.attributes["webhost.usage.tokens"], span.error) == (7, None)


def test_an_error_without_a_class_is_one(recorded: Recorded) -> None:
    reported(made(errors=1))
    assert recorded[0].error == "unknown"


@pytest.mark.parametrize(
    ("compute_ms", "timestamp_ms", "shown_ms"),
    [
        (400, AT_MS, 400),
        (10**9, AT_MS, 400),
        (250, RECEIVED_MS + 60_000, 0),
        (10**9, AT_MS - 30 * 24 * 3600 * 1000, spans.APART_MS),
    ],
)
def test_no_script_ran_longer_than_until_its_report_came(
    recorded: Recorded, compute_ms: int, timestamp_ms: int, shown_ms: int
) -> None:
    reported(made(compute_ms=compute_ms, timestamp_ms=timestamp_ms))
    [span] = recorded
    assert span.end_ns - span.start_ns == shown_ms * 10**6


def test_a_report_without_the_calls_context_shows_no_script(recorded: Recorded) -> None:
    spans.of_agent(*made(), None, RECEIVED_MS)
    assert recorded == []
