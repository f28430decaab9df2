"""A rebuild is honest: what is wrong is named by the dry run, and mended by the rebuild."""

import json
from typing import Any

import psycopg
import pytest

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack

CALLS = 3


def counted(caller: Caller) -> bool:
    events = caller.recent_calls()
    return len(events) == CALLS and {event["source"] for event in events} == {"both"}


def rebuild(stack: Stack, *options: str) -> dict[str, Any]:
    return json.loads(stack.webhost("billing", "rebuild", "--json", *options).stdout)


def corrupt(stack: Stack, statement: str, user_id: str) -> None:
    """What no service does: change billing's table by hand."""
    dsn = stack.status()["postgresDsn"]
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=billing") as connection:
        assert connection.execute(statement.encode(), [user_id]).rowcount == 1


@pytest.mark.accept("8")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_usage SET requests = requests + 5 WHERE user_id = %s",
        "DELETE FROM billing_usage WHERE user_id = %s",
    ],
)
def test_a_corrupt_row_is_named_and_mended(stack: Stack, statement: str) -> None:
    caller = stack.caller()
    user_id = caller.me()["id"]
    agent = caller.create_agent()
    caller.deploy(agent["id"])
    for number in range(CALLS):
        caller.invoke(agent["id"], f"call {number}")
    until(lambda: counted(caller), "the calls to be counted")
    right = caller.usage()

    corrupt(stack, statement, user_id)
    wrong = caller.usage()
    assert wrong != right

    dry = rebuild(stack, "--dry-run")
    [difference] = dry["differences"]
    assert difference["userId"] == user_id
    assert difference["rebuilt"]["requests"] == CALLS
    assert (difference.get("live") or {}).get("requests", 0) == wrong["usage"]["requests"]
    assert not dry.get("swapped")
    assert caller.usage() == wrong

    wet = rebuild(stack)
    assert wet["differences"] == dry["differences"]
    assert wet["swapped"]
    assert caller.usage() == right
    assert rebuild(stack, "--dry-run").get("differences", []) == []
