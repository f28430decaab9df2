"""An event that a projection cannot fold, from its parking to its replay, on the whole stack."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

NOTICED_S = 20


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


def parked(stack: Stack) -> list[dict[str, Any]]:
    return json.loads(stack.webhost("deadletters", "list", "--json").stdout)["parked"]


def execute(stack: Stack, statement: str) -> None:
    with psycopg.connect(stack.status()["postgresDsn"], autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.long
@pytest.mark.accept("A6")
def test_a_parked_event_is_listed_shown_and_replayed(own_stack: Stack) -> None:
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
    name = f"gateway.routes/{event['sequence']}"
    assert event["id"] == name
    assert name in own_stack.webhost("deadletters", "list").stdout
    [whole] = json.loads(own_stack.webhost("deadletters", "show", name).stdout)
    assert json.loads(whole["body"])["data"]["type"] == "agent.disabled.v1"
    other = caller.create_agent("another")["id"]
    caller.deploy(other)
    caller.invoke(other, "All else flows.")

    # A gateway that begins anew knows what the table knows.
    own_stack.kill("gateway")
    assert caller.post_invoke(agent_id, "Not disabled yet?").status_code == 200
    again = own_stack.webhost("deadletters", "replay", "gateway.routes", check=False)
    assert (again.returncode, again.stdout) == (1, "gateway.routes: 0 folded, 1 still parked\n")

    execute(own_stack, "ALTER TABLE gateway.routed_agents DROP CONSTRAINT defect")
    replayed = own_stack.webhost("deadletters", "replay", "--all")
    assert replayed.stdout == "gateway.routes: 1 folded, 0 still parked\n"
    assert parked(own_stack) == []
    assert own_stack.webhost("deadletters", "replay", "--all").stdout == "nothing to replay\n"
    nothing_halted = own_stack.webhost("streams", "replay", "--halted").stdout
    assert nothing_halted == "nothing to replay: nothing is halted\n"
    until(
        lambda: caller.post_invoke(agent_id, "Now?").status_code == 403,
        "the gateway to follow",
        seconds=NOTICED_S,
    )
