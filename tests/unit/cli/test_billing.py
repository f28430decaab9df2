"""What `webhost billing` says of a rebuild, of usage that does not count, and of an invoice."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
from webhost_cli import billing, bus
from webhost_cli.client import Api
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.invoice import invoice
from webhost_cli.rebuild import rebuild
from webhost_contracts.usage_rpc import (
    Counters,
    Difference,
    LateReportsReply,
    RebuildProgress,
    RebuildRequest,
    SilentAgent,
    SilentAgentsReply,
)

from tests.unit.cli.conftest import Said


@pytest.mark.accept("8.series.rebuild")
def test_a_row_of_the_series_is_named_by_its_time_and_deployment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = Difference(
        user_id="usr_1",
        period_key="2024-02",
        runtime_provider="cloudflare",
        live=None,
        rebuilt=Counters(requests=1),
    )
    hour = Difference(
        user_id="usr_1",
        period_key="2024-02",
        runtime_provider="cloudflare",
        live=Counters(requests=2),
        rebuilt=Counters(requests=1),
        bucket="hour",
        start_ms=1_709_164_800_000,
        agent_id="agt_1",
        deployment_id="dep_1",
    )
    billing._show(RebuildProgress(processed=3, total=3, done=True, differences=(usage, hour)))  # pyright: ignore[reportPrivateUsage]
    _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows if "requests" in row] == [
        ["usr_1", "2024-02", "cloudflare", "requests", "no", "row", "1"],
        ["usr_1", "hour", "2024-02-29T00:00Z", "dep_1", "cloudflare", "requests", "2", "1"],
    ]
    assert "rows that differ: 2" in last


@pytest.mark.parametrize(
    ("dry_run", "end"), [(True, "changes nothing"), (False, "puts the result in force")]
)
def test_ctrl_c_says_that_billing_goes_on(
    dry_run: bool,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(work: Coroutine[Any, Any, Any]) -> Any:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(bus, "run", interrupted)
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    with pytest.raises(KeyboardInterrupt):
        billing.rebuild(dry_run=dry_run)
    assert f"billing goes on with the rebuild, and {end}" in capsys.readouterr().err


def test_where_billing_goes_silent_the_rebuild_can_be_run_again() -> None:
    replies = Mock(next_msg=AsyncMock(side_effect=TimeoutError))
    client = Mock(subscribe=AsyncMock(return_value=replies), publish=AsyncMock())
    with pytest.raises(CommandError, match="the same rebuild, run again, goes on from there"):
        asyncio.run(rebuild(client, RebuildRequest(), lambda _: None))


def test_a_rebuild_of_nothing_is_no_success(said: Said) -> None:
    nothing = RebuildProgress(processed=0, total=0, done=True, swapped=True)
    expected = "0 messages replayed: the stream has no usage to rebuild from\n"
    assert said(nothing, "rebuild", "--user", "usr_1") == expected


def test_silent_agents_that_are_not_listed_are_counted(said: Said) -> None:
    agent = SilentAgent(user_id="usr_1", agent_id="agt_1", invocations=10, silent=4)
    reply = SilentAgentsReply(invocations=30, silent=9, agents=(agent,))
    assert said(reply, "silent").splitlines()[-2:] == [
        "9 of 30 calls were not reported (30.0 %)",
        "5 of them are of agents that are not listed: with fewer than 10 calls, or beyond --limit",
    ]
    whole = SilentAgentsReply(invocations=10, silent=4, agents=(agent,))
    assert "not listed" not in said(whole, "silent")


def test_where_no_report_was_late_that_is_said(said: Said) -> None:
    assert (
        said(LateReportsReply(reports=()), "late") == "no report came after its period was sealed\n"
    )


def test_an_invoice_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    response = httpx.Response(200, text="<!doctype html>")
    with Api("http://api", "t", transport=httpx.MockTransport(lambda _: response)) as api:
        with pytest.raises(CommandError, match=r"cannot write to .*i\.html: No such file"):
            invoice(api, html=tmp_path / "missing" / "i.html")
        with pytest.raises(CommandError, match="not both") as refused:
            invoice(api, html=tmp_path / "i.html", as_json=True)
    assert refused.value.exit_code == ExitCode.USAGE


def test_the_help_says_what_is_for_operators(said: Said) -> None:
    lines = said(None, "--help").splitlines()
    for command in ("rebuild", "verify", "late", "silent", "export", "reconcile", "assign"):
        assert any(f" {command} " in line and "Operators:" in line for line in lines), command
