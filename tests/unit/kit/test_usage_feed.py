"""Entries of the feed as CloudEvents, read by the CloudEvents SDK; and operators' tokens."""

import hashlib
import secrets
from datetime import UTC, datetime

import msgspec
import pytest
from webhost_contracts.operator_tokens import OperatorTokens, hash_of, token_of
from webhost_contracts.usage_feed import EVENT_TYPE, FeedEntry, cloud_event
from webhost_contracts.usage_rpc import Counters

from tests.support.usage_feed import read_batch

ENTRY = FeedEntry(
    id="inv_1.1",
    user_id="usr_1",
    agent_id="agt_1",
    deployment_id="dep_1",
    runtime_provider="cloudflare",
    period_key="2026-11",
    at_ms=1_795_987_800_007,
    source="both",
    counters=Counters(requests=0, compute_ms=-60, cost_picodollars=-(10**20) - 1),
    correction_of="inv_1",
)


@pytest.mark.accept("8.feed.cloudevents")
def test_an_entry_is_a_cloudevent_with_exact_numbers() -> None:
    [event] = read_batch(msgspec.json.encode([cloud_event(ENTRY, "ins_1")]))
    assert (event.get_id(), event.get_source(), event.get_subject()) == (
        "inv_1.1",
        "ins_1",
        "usr_1",
    )
    assert (event.get_type(), event.get_specversion()) == (EVENT_TYPE, "1.0")
    assert event.get_time() == datetime.fromtimestamp(1_795_987_800, UTC).replace(microsecond=7000)
    assert event.get_data() == {
        "agentId": "agt_1",
        "deploymentId": "dep_1",
        "runtimeProvider": "cloudflare",
        "periodKey": "2026-11",
        "requests": 0,
        "llmTokens": 0,
        "computeMs": -60,
        "toolCalls": 0,
        "errors": 0,
        "costPicodollars": "-100000000000000000001",
        "source": "both",
        "correctionOf": "inv_1",
    }


@pytest.mark.accept("8.feed.credential")
def test_an_operators_token_is_known_by_its_hash() -> None:
    old, new, another = (token_of(secrets.token_bytes(32)) for _ in range(3))
    assert hash_of(old) == hashlib.sha256(old.encode()).hexdigest()
    tokens = OperatorTokens.parse((f"kim:{hash_of(old)}", f"kim:{hash_of(new)}"))
    assert [tokens.operator_of(one) for one in (old, new, another)] == ["kim", "kim", None]
    for bad in ("", hash_of(old), old.upper(), f"{old}\n", old[:-1], "who_", "whs_" + old[4:]):
        assert tokens.operator_of(bad) is None
    assert OperatorTokens.parse(()).operator_of(old) is None


@pytest.mark.parametrize("value", ["kim", "kim:", "kim:00", f":{'0' * 64}", f"kim:{'A' * 64}"])
def test_what_names_no_hash_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="entry 2 is not <operator>:<SHA-256") as refused:
        OperatorTokens.parse((f"kim:{'0' * 64}", value))
    assert value not in str(refused.value) or value == "kim"
