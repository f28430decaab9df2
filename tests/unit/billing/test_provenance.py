"""Each producer states its own kind of fact, about users of the partition it is sent to."""

import pytest
from webhost_billing.provenance import objection
from webhost_contracts import ids, subjects
from webhost_contracts.events import Event, InvocationFinished, TelemetryAccepted

from tests.support.facts import envelope

USER = ids.user_id("test", "a")
PARTITION = subjects.partition_of(USER)
FINISHED = InvocationFinished(
    agent_id="agt_a",
    deployment_id="dep_a",
    runtime_provider="cloudflare",
    trace_id="t",
    admitted_at_ms=1,
    outcome="succeeded",
)
ACCEPTED = TelemetryAccepted(
    agent_id="agt_a",
    deployment_id="dep_a",
    runtime_provider="cloudflare",
    dedupe_key="event:inv_a",
    timestamp_ms=1,
    requests=1,
    llm_tokens=1,
    compute_ms=1,
    errors=0,
)


@pytest.mark.parametrize(
    ("producer", "partition", "fact", "expected"),
    [
        (subjects.GATEWAY, PARTITION, FINISHED, None),
        (subjects.TELEMETRY_INGEST, PARTITION, ACCEPTED, None),
        (subjects.TELEMETRY_INGEST, PARTITION, FINISHED, "does not state invocation.finished.v1"),
        (subjects.GATEWAY, PARTITION, ACCEPTED, "does not state telemetry.accepted.v1"),
        ("api", PARTITION, FINISHED, "'api' does not state"),
        (subjects.GATEWAY, (PARTITION + 1) % subjects.PARTITIONS, FINISHED, "not of partition"),
    ],
)
def test_what_may_stand_on_a_subject(
    producer: str, partition: int, fact: Event, expected: str | None
) -> None:
    found = objection(
        subjects.usage_packets(partition, producer), envelope(USER, "inv_a", fact), fact
    )
    assert found is None if expected is None else expected in str(found)


def test_other_subjects_hold_no_usage() -> None:
    for subject in ("usage", f"usage.{USER}.agt_a", "evt.x.invocation.inv_a"):
        assert objection(subject, envelope(USER, "inv_a", FINISHED), FINISHED) is not None
