"""A rebuild is correct: a row that was corrupted by hand is reported, and fixed."""

import json
from typing import Any

import psycopg
import pytest

from tests.support.deadline import until
from tests.support.stack import Stack

CALLS = 3


@pytest.mark.long
@pytest.mark.accept("8")
def test_a_corrupted_row_is_named_by_the_dry_run_and_fixed_by_the_rebuild(stack: Stack) -> None:
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

    assert _rebuild(stack)["differences"] == [difference]
    assert caller.usage() == truth
    again = _rebuild(stack, "--dry-run")
    assert (again["differences"], again["swapped"], again["refused"]) == ([], False, None)


def _rebuild(stack: Stack, *options: str) -> dict[str, Any]:
    return json.loads(stack.webhost("billing", "rebuild", "--json", *options).stdout)
