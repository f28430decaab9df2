"""The operator's log of refused reports, bounded, so that it cannot be flooded."""

from collections import OrderedDict
from dataclasses import dataclass

import structlog
from prometheus_client import Counter
from webhost_kit.errors import Problem

from webhost_telemetry_ingest.model import Deployment

log = structlog.get_logger(__name__)

WINDOW_MS = 60_000
LINES_PER_WINDOW = 10
MOST_DEPLOYMENTS = 10_000

_rejected = Counter("webhost_telemetry_rejected_total", "Reports refused", ["code", "attributed"])


@dataclass
class _Window:
    began_at_ms: int
    rejections: int = 0


class Rejections:
    """Writes at most LINES_PER_WINDOW lines per deployment and minute.

    Reports that cannot be attributed to a deployment share one such allowance.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[str | None, _Window] = OrderedDict()

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
        window = self._windows.get(deployment_id)
        if window is None or now_ms - window.began_at_ms >= WINDOW_MS:
            window = self._windows[deployment_id] = _Window(now_ms)
        self._windows.move_to_end(deployment_id)
        if len(self._windows) > MOST_DEPLOYMENTS:
            self._windows.popitem(last=False)
        window.rejections += 1
        if window.rejections > LINES_PER_WINDOW:
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
            last_line_for_now=window.rejections == LINES_PER_WINDOW,
        )
        return True
