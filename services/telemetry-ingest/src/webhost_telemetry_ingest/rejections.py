"""Rejected reports, for the audit of the user and for the operator's log.

Emits: `report.rejected.v1` on EVENTS, where the report can be attributed: its deployment is known,
and its signature is good.
Guarantees: of each deployment's at most PER_MINUTE are written down, and as many of all that cannot
be attributed, so that nobody can flood the log or the audit. No answer waits for it. They are kept
in no table (`unstored`): what is lost on the way is in the log and not in the audit.
"""

import structlog
from prometheus_client import Counter
from webhost_contracts.events import ReportRejected
from webhost_kit.allowance import Allowance
from webhost_kit.errors import Problem
from webhost_kit.eventsourcing.unstored import UnstoredFacts

from webhost_telemetry_ingest.model import Deployment

log = structlog.get_logger(__name__)

ACTOR = "worker"
PER_MINUTE = 10

_rejected = Counter(
    "webhost_ingest_reports_rejected_total",
    "Workers' reports that were refused, by the error's code; `attributed` are those that a known "
    "deployment signed",
    ["code", "attributed"],
)


class Rejections:
    """Writes down what was rejected."""

    def __init__(self, facts: UnstoredFacts) -> None:
        self._facts = facts
        self._allowance = Allowance(PER_MINUTE)

    def note(
        self,
        problem: Problem,
        request_id: str,
        traceparent: str | None,
        attributed: tuple[str, Deployment] | None,
        now_ms: int,
    ) -> None:
        """Take note of one rejection. Attributed: signed, and known."""
        _rejected.labels(problem.code, "true" if attributed else "false").inc()
        deployment_id, owner = attributed or (None, None)
        left = self._allowance.take(deployment_id, now_ms)
        if left == 0:
            return
        log.warning(
            "telemetry rejected",
            code=problem.code,
            reason=problem.message,
            request_id=request_id,
            deployment_id=deployment_id,
            user_id=owner and owner.user_id,
            agent_id=owner and owner.agent_id,
            last_line_for_now=left == 1,
        )
        if deployment_id is None or owner is None:
            return
        fact = ReportRejected(
            agent_id=owner.agent_id,
            deployment_id=deployment_id,
            code=problem.code,
            reason=problem.message,
        )
        self._facts.add(
            fact,
            user_id=owner.user_id,
            at_ms=now_ms,
            actor=ACTOR,
            request_id=request_id,
            traceparent=traceparent,
        )
