"""A fact counts only where subject, envelope and owner agree."""

import msgspec
import pytest
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import (
    EVENT_TYPES,
    AgentCreated,
    Envelope,
    Event,
    InvocationFinished,
    TelemetryAccepted,
    TierChanged,
)
from webhost_contracts.events.base import by_name
from webhost_contracts.events.packets import PACKET, pack
from webhost_kit.bus.reader import Recorded
from webhost_kit.eventsourcing.facts import Fact, Unfoldable, decoded, fact_of

from tests.support.facts import deployment_started, envelope

TYPES = by_name(*EVENT_TYPES)
USER, OTHER = ids.user_id("test", "a"), ids.user_id("test", "c")
PARTITION = subjects.partition_of(USER)
CREATED = AgentCreated(name="a")
TIER = TierChanged(tier="pro", previous_tier="free", source="test")
STARTED = deployment_started("agt_1")
FINISHED = InvocationFinished(
    agent_id="agt_1",
    deployment_id="dep_1",
    runtime_provider="cloudflare",
    trace_id="t",
    admitted_at_ms=1,
    outcome="succeeded",
)
ACCEPTED = TelemetryAccepted(
    agent_id="agt_1",
    deployment_id="dep_1",
    runtime_provider="cloudflare",
    dedupe_key="event:inv_1",
    timestamp_ms=1,
    requests=1,
    llm_tokens=1,
    compute_ms=1,
    errors=0,
)


def on(subject: str, about: str, fact: Event) -> Fact | Unfoldable:
    """What becomes of a fact about USER on this subject."""
    stated = envelope(USER, about, fact)
    body, type_name = wire.encode(stated), fact.type_name()
    if subject.startswith("usage."):
        body, type_name = pack([body]), PACKET
    [one] = decoded([Recorded(1, 1, subject, type_name, None, body)], TYPES)
    return one


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize(
    ("subject", "about", "fact"),
    [
        (f"evt.{USER}.agent.agt_1", "agt_1", CREATED),
        (f"evt.{USER}.account.{USER}", USER, TIER),
        (f"evt.{USER}.deployment.agt_1", "dep_1", STARTED),
        (f"usage.{PARTITION}.gateway", "inv_1", FINISHED),
        (f"usage.{PARTITION}.telemetry-ingest", "inv_1", ACCEPTED),
    ],
)
def test_a_fact_on_its_own_subject_counts(subject: str, about: str, fact: Event) -> None:
    assert isinstance(on(subject, about, fact), Fact)


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize(
    ("subject", "about", "fact"),
    [
        # of another user, another aggregate, another agent than the fact says
        (f"evt.{OTHER}.agent.agt_1", "agt_1", CREATED),
        (f"evt.{USER}.agent.agt_2", "agt_1", CREATED),
        (f"evt.{USER}.deployment.agt_2", "dep_1", STARTED),
        (f"evt.{USER}.deployment.dep_1", "dep_1", STARTED),
        # of a kind that the subject's owner does not state
        (f"evt.{USER}.deployment.{USER}", USER, TIER),
        (f"evt.{USER}.agent.agt_1", "dep_1", STARTED),
        (f"evt.{USER}.account.{USER}", "agt_1", CREATED),
        (f"evt.{USER}.invocation.inv_1", "inv_1", FINISHED),
        (f"usage.{PARTITION}.telemetry-ingest", "inv_1", FINISHED),
        (f"usage.{PARTITION}.gateway", "inv_1", ACCEPTED),
        (f"usage.{PARTITION}.api", "inv_1", FINISHED),
        (f"usage.{PARTITION}.gateway", USER, TIER),
        (f"usage.{(PARTITION + 1) % subjects.PARTITIONS}.gateway", "inv_1", FINISHED),
        ("usage", "inv_1", FINISHED),
        (f"evt.{USER}.agent.agt_1.more", "agt_1", CREATED),
    ],
)
def test_a_fact_on_another_subject_is_refused_and_holds_nobody_back(
    subject: str, about: str, fact: Event
) -> None:
    one = on(subject, about, fact)
    assert isinstance(one, Unfoldable)
    assert one.refused
    assert (one.aggregate_id, one.version) == (None, None)
    assert one.reason.endswith(f"not to be stated on {subject}")
    # A replay of what was parked decides the same.
    assert fact_of(1, 1, 0, subject, wire.encode(envelope(USER, about, fact)), TYPES) is None


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize(
    ("subject", "type_name", "held_back"),
    [
        (f"evt.{USER}.agent.agt_1", "agent.renamed.v7", "agt_1"),
        (f"evt.{USER}.deployment.agt_1", "teardown.postponed.v1", "agt_1"),
        (f"evt.{OTHER}.agent.agt_1", "agent.renamed.v7", None),
        (f"evt.{USER}.deployment.agt_1", "agent.renamed.v7", None),
        (f"usage.{PARTITION}.gateway", "agent.renamed.v7", None),
    ],
)
def test_what_cannot_be_read_holds_back_only_what_its_publisher_owns(
    subject: str, type_name: str, held_back: str | None
) -> None:
    unknown = Envelope(
        event_id="evt_1",
        aggregate_id="agt_1",
        version=7,
        user_id=USER,
        occurred_at_ms=1,
        actor="test",
        data=msgspec.Raw(wire.encode({"type": type_name})),
    )
    [one] = decoded([Recorded(1, 1, subject, None, None, wire.encode(unknown))], TYPES)
    assert isinstance(one, Unfoldable)
    assert (one.aggregate_id, one.refused) == (held_back, held_back is None)
