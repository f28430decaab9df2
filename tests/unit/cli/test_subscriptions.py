"""What `webhost billing reconcile` and `assign` say, and how they end."""

import httpx
import pytest
from webhost_cli import subscriptions
from webhost_cli.client import Api
from webhost_cli.errors import CommandError
from webhost_contracts.billing_rpc import (
    AssignSubscriptionReply,
    ChangedSubscription,
    ReconcileSubscriptionsReply,
    UnassignedSubscription,
)

from tests.unit.cli.conftest import Said


def test_what_differs_is_shown_line_by_line(said: Said) -> None:
    reply = ReconcileSubscriptionsReply(
        read=7,
        changed=(
            ChangedSubscription(
                id="11",
                user_id="usr_a",
                was="active",
                status="expired",
                previous_tier="pro",
                tier="free",
            ),
        ),
        unassigned=(
            UnassignedSubscription(
                id="12",
                status="active",
                tier="pro",
                customer_id="5",
                email="kim@example.com",
                created_at_ms=1,
                users=("usr_b", "usr_c"),
            ),
        ),
        unknown_variants=("99",),
        missing=("13",),
        unreadable=2,
        left_out=3,
        applied=True,
    )
    lines = said(reply, "reconcile").splitlines()
    assert lines[1].split() == ["11", "usr_a", "active", "expired", "pro", "free"]
    assert "assign" in lines[2]
    assert lines[4].split() == ["12", "pro", "active", "5", "kim@example.com", "usr_b", "usr_c"]
    assert lines[5:] == [
        "variants that stand for no tier: 99",
        "not at the provider: 13",
        "2 could not be read: billing's log says why",
        "and 3 more that are not listed",
        "7 subscriptions read, 1 differs: taken over",
    ]


def test_where_nothing_differs_that_is_all(said: Said) -> None:
    reply = ReconcileSubscriptionsReply(read=1)
    expected = "1 subscription read, 0 differ: nothing was changed\n"
    assert said(reply, "reconcile", "--dry-run") == expected
    assert '"missing": []' in said(reply, "reconcile", "--json")


def test_a_refusal_ends_the_command(said: Said) -> None:
    with pytest.raises(CommandError, match="refused: it is Bob's"):
        said(AssignSubscriptionReply(refused="it is Bob's"), "assign", "11", "usr_a")
    with pytest.raises(CommandError, match="refused: away"):
        said(ReconcileSubscriptionsReply(refused="away"), "reconcile")
    told = said(AssignSubscriptionReply(tier="pro"), "assign", "11", "usr_a")
    assert told == "11 is usr_a's, who is on pro\n"


@pytest.mark.parametrize(
    ("status", "renews"),
    [("active", True), ("past_due", True), ("paused", False), ("cancelled", False)],
)
def test_only_what_will_renew_says_when(
    status: str, renews: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"id": "1", "status": status, "tier": "pro", "active": True, "renewsAtMs": 1}
    response = httpx.Response(200, json={"subscription": found})
    with Api("http://api", "t", transport=httpx.MockTransport(lambda _: response)) as api:
        subscriptions.subscription(api)
    assert ("renews" in capsys.readouterr().out) is renews
