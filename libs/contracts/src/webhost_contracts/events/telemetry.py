"""A Worker's report of a call: accepted, on the USAGE stream, or rejected, on EVENTS."""

from webhost_contracts import subjects
from webhost_contracts.events.base import Event, Json, UsageFact


class TelemetryAccepted(UsageFact, frozen=True, kw_only=True, tag="telemetry.accepted.v1"):
    """A report signed with its deployment's key and attributed to exactly its owner.

    `dedupe_key` tells one report of a deployment from another: the reported event id, else the
    trace id, else the body's hash, each under a prefix of its own. `reported_cost_usd` is kept
    as it was reported and never billed.
    """

    agent_id: str
    deployment_id: str
    runtime_provider: str
    dedupe_key: str
    timestamp_ms: int
    requests: int
    llm_tokens: int
    compute_ms: int
    errors: int
    tool_calls: int = 0
    error_class: str | None = None
    trace_id: str | None = None
    reported_cost_usd: str | None = None
    provider: Json | None = None


class ReportRejected(Event, frozen=True, kw_only=True, tag="report.rejected.v1"):
    """A report with the deployment's good signature was rejected.

    Not every one is stated, see telemetry-ingest. `code` is the answer's, and `reason` its message.
    """

    agent_id: str
    deployment_id: str
    code: str
    reason: str

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the one subject of all that was rejected of this user's."""
        return subjects.event(user_id, self.kind(), user_id)


def dedupe_key(event_id: str | None, trace_id: str | None, body_sha256: str) -> str:
    """Return the key by which repeated reports of one deployment are recognised."""
    if event_id is not None:
        return f"event:{event_id}"
    if trace_id is not None:
        return f"trace:{trace_id}"
    return f"body:{body_sha256}"
