"""The span of an agent's script: the times that its Worker reported, as far as they can be so."""

from collections.abc import Iterator

import pytest
from webhost_contracts.telemetry import TelemetryReport
from webhost_kit.process import tracing
from webhost_kit.process.tracing import FinishedSpan
from webhost_telemetry_ingest import decisions, spans
from webhost_telemetry_ingest.model import Deployment

CALL = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AT_MS = 1_800_000_000_000


class Recorded(list[FinishedSpan]):
    """What was recorded."""

    def add(self, span: FinishedSpan) -> None:
        self.append(span)

    def samples(self, trace_id: str) -> bool:
        return True


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    found = Recorded()
    tracing.set_recorder(found)
    yield found
    tracing.set_recorder(None)


def reported(caller: str | None = CALL, started_at_ms: int | None = None, errors: int = 0) -> None:
    report = TelemetryReport(
        user_id="usr_1",
        agent_id="agt_1",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        timestamp_ms=AT_MS,
        requests=1,
        llm_tokens=7,
        compute_ms=250,
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
    fact = decisions.accept(report, b"", "dep_1", known, AT_MS)
    spans.of_agent(report, fact, caller)


@pytest.mark.parametrize(
    ("started_at_ms", "shown_ms"),
    [(None, AT_MS), (AT_MS + 3, AT_MS + 3), (0, AT_MS), (2**53 - 1, AT_MS)],
)
def test_it_has_the_reported_times(
    recorded: Recorded, started_at_ms: int | None, shown_ms: int
) -> None:
    reported(started_at_ms=started_at_ms)
    [span] = recorded
    assert (span.start_ns, span.end_ns) == (shown_ms * 10**6, (shown_ms + 250) * 10**6)
    assert (span.service, span.parent_id) == ("agent", "b7ad6b7169203331")
    assert (span.attributes["webhost.usage.tokens"], span.error) == (7, None)


def test_an_error_without_a_class_is_one(recorded: Recorded) -> None:
    reported(errors=1)
    assert recorded[0].error == "unknown"


def test_a_report_without_the_calls_context_shows_no_script(recorded: Recorded) -> None:
    reported(caller=None)
    reported(caller=CALL.removesuffix("1") + "0")
    assert recorded == []
