"""An event that a projection cannot fold, and a command that no handler can: from there to the
replay, by the runbook's commands.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.account import Account
from tests.support.deadline import until
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack

NOTICED_S = 20
TRIES_S = 90
"""All tries of one command, with the pauses between them."""


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


Follow = Callable[[str], Runbook]


@pytest.fixture
def follow(own_stack: Stack, tmp_path: Path) -> Follow:
    return lambda section: Runbook(own_stack, "dead-letters.md", section, tmp_path)


def parked(stack: Stack) -> list[dict[str, Any]]:
    return json.loads(stack.webhost("deadletters", "list", "--json").stdout)["parked"]


def execute(stack: Stack, statement: str) -> None:
    with psycopg.connect(stack.status()["postgresDsn"], autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.long
@pytest.mark.accept("A6")
def test_a_parked_event_is_listed_shown_and_replayed(own_stack: Stack, follow: Follow) -> None:
    caller = own_stack.caller()
    agent_id = caller.create_agent()["id"]
    caller.deploy(agent_id)
    caller.invoke(agent_id, "It answers.")
    # A fold that cannot digest what comes next of this agent, as a defect would make it.
    execute(
        own_stack,
        "ALTER TABLE gateway.routed_agents ADD CONSTRAINT defect"
        f" CHECK (agent_id <> '{agent_id}' OR NOT disabled)",
    )
    assert caller.http.post(f"/v1/agents/{agent_id}/disable").is_success
    until(lambda: len(parked(own_stack)) == 1, "the event to be parked", seconds=NOTICED_S)

    [event] = parked(own_stack)
    assert (event["projection"], event["aggregateId"]) == ("gateway.routes", agent_id)
    assert "defect" in event["reason"]
    names = {"PROJECTION": "gateway.routes", "NUMBER": str(event["sequence"])}
    assert event["id"] == "{PROJECTION}/{NUMBER}".format(**names)
    runbook = follow("Parked events")
    shown = json.loads(runbook.step(names))
    assert json.loads(shown[0]["body"])["data"]["type"] == "agent.disabled.v1"
    other = caller.create_agent("another")["id"]
    caller.deploy(other)
    caller.invoke(other, "All else flows.")

    # A gateway that begins anew knows what the table knows.
    own_stack.kill("gateway")
    assert caller.post_invoke(agent_id, "Not disabled yet?").status_code == 200
    with follow("If not") as not_yet:
        not_yet.rest(names)

    execute(own_stack, "ALTER TABLE gateway.routed_agents DROP CONSTRAINT defect")
    with runbook:
        runbook.rest(names)
    assert parked(own_stack) == []
    nothing_halted = own_stack.webhost("streams", "replay", "--halted").stdout
    assert nothing_halted == "nothing to replay: nothing is halted\n"
    until(
        lambda: caller.post_invoke(agent_id, "Now?").status_code == 403,
        "the gateway to follow",
        seconds=NOTICED_S,
    )


@pytest.mark.long
@pytest.mark.accept("A6")
@pytest.mark.timeout(300)
def test_a_dead_letter_is_listed_shown_and_replayed(own_stack: Stack, follow: Follow) -> None:
    caller, account = own_stack.caller(), Account(own_stack)
    agent_id = caller.create_agent()["id"]
    caller.deploy(agent_id)
    defect = f"CHECK (agent_id <> '{agent_id}')"
    execute(own_stack, f"ALTER TABLE deployer.agent_teardowns ADD CONSTRAINT defect {defect}")
    assert caller.http.delete(f"/v1/agents/{agent_id}").is_success
    until(lambda: letters(own_stack) != [], "the command to be dead", seconds=TRIES_S)
    letter = letters(own_stack)[0]
    assert account.scripts_of(agent_id)
    runbook = follow("Dead letters")
    runbook.step({"NUMBER": str(letter["seq"])})
    execute(own_stack, "ALTER TABLE deployer.agent_teardowns DROP CONSTRAINT defect")
    with runbook:
        runbook.rest({"NUMBER": str(letter["seq"])}, within=NOTICED_S)
    until(lambda: not account.scripts_of(agent_id), "the scripts to be gone", seconds=NOTICED_S)
    assert letters(own_stack) == []


def letters(stack: Stack) -> list[dict[str, Any]]:
    return json.loads(stack.webhost("deadletters", "list", "--json").stdout)["deadLetters"]
