"""The span of the agent's script: what its Worker reported of a call, in the trace of that call.

How long the call itself took only its gateway knows. Here it has ended when its Worker reports it,
and its compute is shown as no longer than that.
"""

from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.telemetry import TelemetryReport
from webhost_kit.process import tracing
from webhost_kit.process.trace_context import Context

SERVICE = "agent"
APART_MS = 3600 * 1000
"""How far the Worker's own start of a call may be from its admission, to be believed; and the
longest compute that is shown.
"""


def of_agent(
    report: TelemetryReport, fact: TelemetryAccepted, parent: Context | None, received_ms: int
) -> None:
    """Record the span of a report that was received in the context of the gateway's call."""
    if parent is None:
        return
    started_ms = report.timestamp_ms
    if report.started_at_ms is not None and abs(report.started_at_ms - started_ms) <= APART_MS:
        started_ms = report.started_at_ms
    most_ms = min(max(0, received_ms - report.timestamp_ms), APART_MS)
    tracing.record(
        "invoke_agent",
        "internal",
        started_ms,
        started_ms + min(report.compute_ms, most_ms),
        parent=parent,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "webhost",
            "gen_ai.agent.id": report.agent_id,
            "webhost.deployment.id": report.deployment_id,
            "webhost.runtime_provider": report.runtime_provider,
            "webhost.usage.tokens": report.llm_tokens,
            "webhost.usage.tool_calls": fact.tool_calls,
        },
        error=report.error_class or ("unknown" if report.errors else None),
        service=SERVICE,
    )
