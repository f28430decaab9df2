"""The operator's log of refused reports, bounded, so that it cannot be flooded."""

import structlog
from prometheus_client import Counter
from webhost_kit.allowance import Allowance
from webhost_kit.errors import Problem

from webhost_telemetry_ingest.model import Deployment

log = structlog.get_logger(__name__)

LINES_PER_MINUTE = 10

_rejected = Counter("webhost_telemetry_rejected_total", "Reports refused", ["code", "attributed"])


class Rejections:
    """Writes at most LINES_PER_MINUTE lines per deployment and minute.

    Reports that cannot be attributed to a deployment share one such allowance.
    """

    def __init__(self) -> None:
        self._lines = Allowance(LINES_PER_MINUTE)

    def note(
        self,
        problem: Problem,
        request_id: str,
        attributed: tuple[str, Deployment] | None,
        now_ms: int,
    ) -> bool:
        """Log one refusal; say whether a line was written. Attributed: signed, and known."""
        _rejected.labels(problem.code, attributed is not None).inc()
        deployment_id = attributed[0] if attributed else None
        left = self._lines.take(deployment_id, now_ms)
        if left == 0:
            return False
        owner = attributed[1] if attributed else None
        log.warning(
            "telemetry rejected",
            code=problem.code,
            reason=problem.message,
            request_id=request_id,
            deployment_id=deployment_id,
            user_id=owner.user_id if owner else None,
            agent_id=owner.agent_id if owner else None,
            last_line_for_now=left == 1,
        )
        return True
