"""What `webhost billing reconcile` and `assign` say, and how they end."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from webhost_cli import bus, subscriptions
from webhost_cli.errors import CommandError
from webhost_contracts.billing_rpc import (
    AssignSubscriptionReply,
    ChangedSubscription,
    ReconcileSubscriptionsReply,
    UnassignedSubscription,
)

Said = Callable[..., str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run `webhost billing …`, billing replying this; return what it prints."""

    def run(reply: Any, *arguments: str) -> str:
        def answered(work: Coroutine[Any, Any, Any]) -> Any:
            work.close()
            return reply

        monkeypatch.setattr(bus, "run", answered)
        monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
        ended = CliRunner().invoke(_app(), arguments)
        if isinstance(ended.exception, CommandError):
            raise ended.exception
        assert ended.exit_code == 0, ended.output
        return ended.output

    return run


def _app() -> typer.Typer:
    app = typer.Typer()
    subscriptions.add_to(app)
    return app


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
        "7 subscriptions read, 1 that differ: taken over",
    ]


def test_where_nothing_differs_that_is_all(said: Said) -> None:
    reply = ReconcileSubscriptionsReply(read=1)
    expected = "1 subscriptions read, 0 that differ: nothing was changed\n"
    assert said(reply, "reconcile", "--dry-run") == expected
    assert '"missing": []' in said(reply, "reconcile", "--json")


def test_a_refusal_ends_the_command(said: Said) -> None:
    with pytest.raises(CommandError, match="refused: it is Bob's"):
        said(AssignSubscriptionReply(refused="it is Bob's"), "assign", "11", "usr_a")
    with pytest.raises(CommandError, match="refused: away"):
        said(ReconcileSubscriptionsReply(refused="away"), "reconcile")
    told = said(AssignSubscriptionReply(tier="pro"), "assign", "11", "usr_a")
    assert told == "11 is usr_a's, who is on pro\n"
