"""A rebuild is correct: a row that was corrupted by hand is reported, and fixed, by the commands of
its runbook.
"""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.deadline import until
from tests.support.runbook import Runbook
from tests.support.stack import Stack

PAGE = "rebuild-usage.md"
CALLS = 3


@pytest.mark.accept("8")
def test_a_corrupted_row_is_named_by_the_dry_run_and_fixed_by_the_rebuild(
    stack: Stack, tmp_path: Path
) -> None:
    caller = stack.caller()
    user = caller.me()
    agent = caller.create_agent()
    caller.deploy(agent["id"])
    for _ in range(CALLS):
        caller.invoke(agent["id"], "Count this one.")
    until(
        lambda: [e["source"] for e in caller.recent_calls()] == ["both"] * CALLS,
        "both reports of every call",
        seconds=20,
    )
    truth = caller.usage()
    assert truth["usage"]["requests"] == CALLS

    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        changed = connection.execute(
            "UPDATE billing.billing_usage SET requests = requests + 7, llm_tokens = 0"
            " WHERE user_id = %s",
            (user["id"],),
        )
        assert changed.rowcount == 1
    corrupted = caller.usage()
    assert corrupted["usage"]["requests"] == CALLS + 7
    assert corrupted["usage"]["llmTokens"] == 0

    with Runbook(stack, PAGE, "Steps", tmp_path) as runbook:
        runbook.step()
        runbook.step()
        dry = _rebuild(stack, "--dry-run")
        [difference] = dry["differences"]
        assert difference["userId"] == user["id"]
        assert difference["periodKey"] == truth["periodKey"]
        assert difference["runtimeProvider"] == "cloudflare"
        assert difference["live"]["requests"] == CALLS + 7
        assert difference["rebuilt"]["requests"] == CALLS
        assert difference["rebuilt"]["llmTokens"] == truth["usage"]["llmTokens"]
        assert dry["swapped"] is False
        assert caller.usage() == corrupted
        runbook.step()
    assert caller.usage() == truth
    with Runbook(stack, PAGE, "How to see that it worked", tmp_path) as runbook:
        runbook.rest()
    again = _rebuild(stack, "--dry-run")
    assert (again["differences"], again["swapped"], again["refused"]) == ([], False, None)


def _rebuild(stack: Stack, *options: str) -> dict[str, Any]:
    return json.loads(stack.webhost("billing", "rebuild", "--json", *options).stdout)
