"""The whole stack after it lost its database, its streams, or the newest part of either.

In each case users see what they saw before, and can continue; nothing is counted twice. The
operator does what docs/runbooks/restore.md says, with its commands.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus

from tests.e2e.test_streams import on_bus
from tests.e2e.world import answering
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.history import is_whole
from tests.support.keys import StackKeys
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack

SETTLED_S = 30
PAGE = "restore.md"
HALTED = "After a restore, or a lost stream"
EXIT_USAGE = 2


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of these tests' own, since what it loses would affect all tests on a shared one."""
    with running_stack() as running:
        yield running


@dataclass
class User:
    """A user, what it does, and everything that it is shown."""

    stack: Stack
    caller: Caller
    calls: int = 0

    def deploy_and_call(self, agent: dict[str, Any], text: str) -> None:
        """Put code on the agent, and see it answer once."""
        deployment = self.caller.deploy(agent["id"], moduleCode=answering(text))
        assert deployment["status"] == "active", deployment

        def answers() -> bool:
            self.calls += 1
            return self.caller.invoke(agent["id"], "hello")["output"]["text"] == text

        until(answers, f"{text!r} to be in force", seconds=SETTLED_S)

    def until_counted(self) -> None:
        """Every call is counted once, with both of its reports."""

        def counted() -> bool:
            sources = [event["source"] for event in self.caller.recent_calls()]
            return sources == ["both"] * self.calls

        until(counted, f"{self.calls} calls to be counted", seconds=SETTLED_S)
        assert self.caller.usage()["usage"]["requests"] == self.calls

    def view(self) -> dict[str, Any]:
        agents = self.caller.http.get("/v1/agents").json()["agents"]
        path = "/v1/agents/{}/deployments"
        deployments = {
            agent["id"]: self.caller.http.get(path.format(agent["id"])).json()["deployments"]
            for agent in agents
        }
        return {
            "me": self.caller.me(),
            "agents": agents,
            "deployments": deployments,
            "usage": self.caller.usage(),
            "calls": self.caller.recent_calls(),
        }

    def until_sees(self, expected: dict[str, Any]) -> None:
        shown: dict[str, Any] = {}

        def same() -> bool:
            shown.update(self.view())
            return shown == expected

        try:
            until(same, "the user to see what was there before", seconds=SETTLED_S)
        except AssertionError:
            assert shown == expected
            raise

    def check_goes_on(self, agent: dict[str, Any]) -> None:
        """Old and new agents are deployed to, called and counted, and history has no gap."""
        self.deploy_and_call(agent, "it goes on")
        self.deploy_and_call(self.caller.create_agent("new"), "as new")
        self.until_counted()
        user_id = agent["userId"]
        until(lambda: is_whole(self.stack, user_id), "an unbroken history")
        assert used_quota(self.stack, user_id) == self.calls


@pytest.fixture
def user(stack: Stack) -> User:
    return User(stack, stack.caller())


def used_quota(stack: Stack, user_id: str) -> int:
    """The requests that the gateway has admitted of this user."""
    query = "SELECT sum(requests) FROM gateway.quotas WHERE user_id = %s"
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        [used] = connection.execute(query, (user_id,)).fetchone() or [0]
        return int(used or 0)


Follow = Callable[[str], Runbook]


@pytest.fixture
def follow(stack: Stack, tmp_path: Path) -> Follow:
    """What opens the page at a section, with a folder for the backup."""
    backup = tmp_path / "backup"
    backup.mkdir()
    return lambda section: Runbook(stack, PAGE, section, tmp_path, {"BACKUP": str(backup)})


def back_up(stack: Stack, follow: Follow) -> None:
    """Keep what both hold now."""
    with stack.stopped(), follow("A backup to restore from") as runbook:
        runbook.rest()


def some_life(user: User) -> dict[str, Any]:
    """Agents in several states; return the one that is worked with later."""
    agent = user.caller.create_agent("kept")
    user.deploy_and_call(agent, "before")
    user.caller.create_agent("deleted later")
    user.until_counted()
    return agent


def more_life(user: User, agent: dict[str, Any]) -> dict[str, Any]:
    """What happens after the backup; return what the user sees in the end."""
    user.deploy_and_call(agent, "after")
    user.deploy_and_call(user.caller.create_agent("younger than the backup"), "young")
    [gone] = [
        a
        for a in user.caller.http.get("/v1/agents").json()["agents"]
        if a["name"] == "deleted later"
    ]
    assert user.caller.http.delete(f"/v1/agents/{gone['id']}").is_success
    user.until_counted()
    return user.view()


def halted(stack: Stack) -> set[str]:
    shown = json.loads(stack.webhost("streams", "status", "--json", check=False).stdout)["services"]
    projections = [each for found in shown.values() for each in found or ()]
    return {each["name"] for each in projections if "halted" in (each["problem"] or "")}


def until_halted(stack: Stack, follow: Follow, names: set[str]) -> None:
    """Return when one that begins as each of these is halted, and the page's command says so."""

    def are_halted() -> bool:
        found = halted(stack)
        return all(any(one.startswith(name) for one in found) for name in names)

    until(are_halted, "a halt", seconds=SETTLED_S)
    with follow(HALTED) as runbook:
        runbook.rest()


async def delete_events(bus: Bus) -> None:
    await bus.js.delete_stream(subjects.EVENTS)


async def delete_usage(bus: Bus) -> None:
    await bus.js.delete_stream(subjects.USAGE)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_postgres_is_restored_to_an_earlier_state(stack: Stack, user: User, follow: Follow) -> None:
    agent = some_life(user)
    back_up(stack, follow)
    seen = more_life(user, agent)
    with follow("Postgres was restored to an earlier time") as runbook:
        with stack.stopped():
            runbook.step()
        runbook.rest(within=SETTLED_S)
    user.until_sees(seen)
    assert used_quota(stack, agent["userId"]) >= user.calls
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_the_gateways_database_is_lost(stack: Stack, user: User, follow: Follow) -> None:
    agent = some_life(user)
    seen = user.view()
    with psycopg.connect(stack.status()["postgresDsn"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA gateway CASCADE")
        connection.execute("CREATE SCHEMA gateway AUTHORIZATION webhost_gateway_owner")
        connection.execute("GRANT USAGE ON SCHEMA gateway TO webhost_gateway")
    with follow("The gateway's database was lost") as runbook:
        runbook.environment |= StackKeys(stack).databases("gateway")
        runbook.step()
        stack.kill("gateway")
        runbook.rest(within=SETTLED_S)
    user.until_sees(seen)
    user.deploy_and_call(agent, "after")
    assert used_quota(stack, agent["userId"]) == user.calls, "none is given twice"
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_the_control_planes_history_is_lost(stack: Stack, user: User, follow: Follow) -> None:
    agent = some_life(user)
    seen = more_life(user, agent)
    on_bus(stack, delete_events)
    everyone = {
        "api.own-facts",
        "api.reactor",
        "api.history",
        "deployer.own-facts",
        "gateway.routes",
        "telemetry-ingest.deployments",
    }
    until_halted(stack, follow, everyone)
    until(lambda: "own-facts" in stack.complaints("api"), "the api to be unready")
    refused = user.caller.http.post("/v1/agents", json={"name": "not now"})
    assert refused.status_code == 503, refused.text

    with follow("EVENTS was lost") as runbook:
        runbook.step()
        runbook.step()
        runbook.rest(within=SETTLED_S)
    user.until_sees(seen)
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_usage_is_lost(stack: Stack, user: User, follow: Follow) -> None:
    agent = some_life(user)
    seen = user.view()
    on_bus(stack, delete_usage)
    until_halted(stack, follow, {"billing."})
    user.deploy_and_call(agent, "counted later")
    with follow("USAGE was lost, or restored to an earlier time") as runbook:
        runbook.rest(within=SETTLED_S)
    user.until_counted()
    assert user.view()["usage"]["usage"]["llmTokens"] > seen["usage"]["usage"]["llmTokens"]
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_all_of_nats_is_lost(stack: Stack, user: User, follow: Follow) -> None:
    agent = some_life(user)
    seen = user.view()
    with follow("All of NATS was lost") as runbook:
        assert stack.stop() == 0
        runbook.step()
        stack.launch()
        until_halted(stack, follow, {"api.own-facts", "gateway.routes", "billing."})
        runbook.step(within=SETTLED_S)
        runbook.rest(within=SETTLED_S)
    user.until_sees(seen)
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_the_streams_are_restored_to_an_earlier_state(
    stack: Stack, user: User, follow: Follow
) -> None:
    agent = some_life(user)
    back_up(stack, follow)
    key = user.caller.http.post("/v1/keys", json={"name": "old", "scopes": ["invoke"]}).json()
    bearer = {"Authorization": f"Bearer {key['token']}"}
    assert user.caller.http.delete(f"/v1/keys/{key['key']['id']}").is_success
    seen = more_life(user, agent)
    runbook = follow("The streams were restored to an earlier time")
    assert stack.stop() == 0
    runbook.step()
    stack.launch()

    # Billing has folded usage that the stream lacks: its tables keep it, and it is not made twice.
    until(lambda: stack.complaints("billing") != {}, "billing to notice", seconds=SETTLED_S)
    until_halted(stack, follow, {"api.own-facts", "gateway.routes"})
    # In the wrong order, it says so, and nobody takes what is left for all that there is.
    refused = stack.webhost("streams", "replay", "--halted", check=False)
    assert "`webhost streams republish` first" in refused.stderr
    refused = stack.webhost("streams", "replay", "gateway.routes", check=False)
    assert "own-facts is halted, and comes first" in refused.stderr
    assert {"api.own-facts", "gateway.routes"} <= halted(stack)
    path = f"/v1/invoke/{agent['id']}"
    called = user.caller.http.post(path, json={"input": {"prompt": "hello"}}, headers=bearer)
    assert called.status_code in (401, 503), called.text
    with runbook:
        runbook.step()
        runbook.step()
        runbook.rest(within=SETTLED_S)
    user.until_sees(seen)
    user.check_goes_on(agent)


@pytest.mark.accept("A1")
@pytest.mark.timeout(240)
def test_both_are_restored_to_an_earlier_state(stack: Stack, user: User, follow: Follow) -> None:
    """What came after it never happened, but for scripts that were removed."""
    agent = some_life(user)
    seen, calls = user.view(), user.calls
    back_up(stack, follow)
    more_life(user, agent)
    with follow("Postgres and NATS were both restored to one backup") as runbook:
        with stack.stopped():
            runbook.step()
        runbook.rest(within=SETTLED_S)
    user.calls = calls
    user.until_sees(seen)
    assert halted(stack) == set()
    user.check_goes_on(agent)


@pytest.mark.accept("A1")
@pytest.mark.parametrize("stream", [subjects.USAGE, subjects.COMMANDS])
def test_other_streams_are_not_published_again(stack: Stack, stream: str) -> None:
    refused = stack.webhost("streams", "republish", "--stream", stream, check=False)
    assert refused.returncode == EXIT_USAGE
    assert "COMMANDS are resent automatically" in refused.stderr
