"""The ingest's caches stay bounded."""

from webhost_telemetry_ingest.dedupe import DedupeCache


def test_the_oldest_report_is_forgotten_first() -> None:
    seen = DedupeCache(most=2)
    for number in range(3):
        seen.add(("dep_a", str(number)))
    assert [("dep_a", str(number)) in seen for number in range(3)] == [False, True, True]
