"""The span of the agent's script: what its Worker reported of a call, in the trace of that call."""

from webhost_contracts.events import TelemetryAccepted
from webhost_contracts.telemetry import TelemetryReport
from webhost_kit.process import tracing

SERVICE = "agent"
APART_MS = 3600 * 1000
"""How far the Worker's own start of a call may be from its admission, to be believed."""


def of_agent(report: TelemetryReport, fact: TelemetryAccepted, caller: str | None) -> None:
    """Record the span of a report that came in the context of the gateway's call."""
    parent = tracing.parse(caller)
    if parent is None or not parent.sampled:
        return
    started_ms = report.timestamp_ms
    if report.started_at_ms is not None and abs(report.started_at_ms - started_ms) <= APART_MS:
        started_ms = report.started_at_ms
    tracing.record(
        "invoke_agent",
        "internal",
        started_ms,
        started_ms + report.compute_ms,
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
