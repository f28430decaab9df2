"""The ingest's caches and logs stay bounded."""

from webhost_kit.allowance import WINDOW_MS
from webhost_kit.errors import Unauthenticated
from webhost_telemetry_ingest.dedupe import DedupeCache
from webhost_telemetry_ingest.model import Deployment
from webhost_telemetry_ingest.rejections import LINES_PER_MINUTE, Rejections


def test_one_deployment_cannot_flood_the_log() -> None:
    rejections = Rejections()
    owner = Deployment(1, "usr_a", "agt_a", "cloudflare", 1, 1)

    def lines(deployment_id: str, at_ms: int) -> int:
        noted = [
            rejections.note(Unauthenticated("no"), "req_1", (deployment_id, owner), at_ms)
            for _ in range(100)
        ]
        return sum(noted)

    assert lines("dep_a", 0) == LINES_PER_MINUTE
    assert lines("dep_b", 0) == LINES_PER_MINUTE
    assert lines("dep_a", WINDOW_MS - 1) == 0
    assert lines("dep_a", WINDOW_MS) == LINES_PER_MINUTE


def test_the_oldest_report_is_forgotten_first() -> None:
    seen = DedupeCache(most=2)
    for number in range(3):
        seen.add(("dep_a", str(number)))
    assert [("dep_a", str(number)) in seen for number in range(3)] == [False, True, True]
