"""Who may be on which tier, and under which key an invocation's reports meet."""

import pytest
from webhost_billing.decisions import Account, Refused, evolve, set_status, set_tier
from webhost_billing.model import invocation_key, usage_report_of
from webhost_contracts import ids
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    InvocationFinished,
    TelemetryAccepted,
    TierChanged,
)

from tests.support.facts import envelope

USER = ids.user_id("test", "a")
TIERS = ("free", "pro")


def test_a_tier_is_set_once() -> None:
    assert set_tier(Account(USER), "pro", "kim", TIERS, 0) == [
        TierChanged(tier="pro", previous_tier="free", source="operator:kim")
    ]
    assert set_tier(Account(USER, 1, "pro", granted="pro"), "pro", "kim", TIERS, 0) == []
    assert set_tier(Account(USER), "free", "kim", TIERS, 0) == []


@pytest.mark.parametrize(("user_id", "tier"), [(USER, "gold"), ("kim", "pro"), ("", "pro")])
def test_unknown_tiers_and_users_are_refused(user_id: str, tier: str) -> None:
    with pytest.raises(Refused):
        set_tier(Account(user_id), tier, "kim", TIERS, 0)


def test_tiers_are_named_by_rank() -> None:
    with pytest.raises(Refused, match="there are free, starter, pro, enterprise"):
        set_tier(Account(USER), "gold", "kim", ("free", "starter", "pro", "enterprise"), 0)


def test_an_account_is_disabled_once_and_enabled_once() -> None:
    disabled = AccountDisabled(source="operator:kim", reason="spam")
    enabled = AccountEnabled(source="operator:kim")
    account = Account(USER, 1, "pro")
    assert set_status(account, "enabled", "kim", None) == []
    assert set_status(account, "disabled", "kim", "spam") == [disabled]
    account = evolve(account, envelope(USER, USER, disabled, version=2), disabled)
    assert account == Account(USER, 2, "pro", disabled=True)
    assert set_status(account, "disabled", "kim", "again") == []
    assert set_status(account, "enabled", "kim", None) == [enabled]
    account = evolve(account, envelope(USER, USER, enabled, version=3), enabled)
    assert account == Account(USER, 3, "pro")
    with pytest.raises(Refused):
        set_status(Account("kim"), "disabled", "kim", None)


def test_both_reports_of_an_invocation_meet_under_one_key() -> None:
    invocation = InvocationFinished(
        agent_id="agt_a",
        deployment_id="dep_a",
        runtime_provider="cloudflare",
        trace_id="t",
        admitted_at_ms=1,
        outcome="succeeded",
    )
    telemetry = TelemetryAccepted(
        agent_id="agt_a",
        deployment_id="dep_a",
        runtime_provider="cloudflare",
        dedupe_key="event:inv_a",
        timestamp_ms=1,
        requests=1,
        llm_tokens=1,
        compute_ms=1,
        errors=0,
        trace_id="a\x00b",
        provider={"a": "\x00"},
    )
    gateway = usage_report_of(envelope(USER, "inv_a", invocation), invocation)
    worker = usage_report_of(envelope(USER, "evt_a", telemetry), telemetry)
    assert gateway.key == worker.key == invocation_key(USER, "dep_a", "event:inv_a")
    assert worker.key != invocation_key(USER, "dep_b", "event:inv_a")
    assert worker.key != invocation_key(ids.user_id("test", "b"), "dep_a", "event:inv_a")
    assert worker.invocation.trace_id == "a\N{REPLACEMENT CHARACTER}b"
    assert worker.provider == b'{"a":"\\u0000"}'
