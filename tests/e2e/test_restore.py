"""The whole stack after it lost its database, its streams, or the newest part of either.

In each case users see what they saw before, and can continue; nothing is counted twice. The
operator does what docs/runbooks/restore.md says.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
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
from tests.support.history import history_of, is_unbroken
from tests.support.stack import Stack, kind_of, running_stack

SETTLED_S = 30
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
        until(lambda: is_unbroken(history_of(self.stack, user_id)), "an unbroken history")
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


def copy(directory: Path, to: Path) -> None:
    """Whole, with owners and times, as a backup is."""
    subprocess.run(["cp", "-a", str(directory), str(to)], check=True)


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


def republish(stack: Stack, *options: str) -> dict[str, Any]:
    ended = stack.webhost("streams", "republish", "--json", *options)
    return json.loads(ended.stdout)["services"]


def halted(stack: Stack) -> set[str]:
    shown = json.loads(stack.webhost("streams", "status", "--json", check=False).stdout)["services"]
    projections = [each for found in shown.values() for each in found or ()]
    return {each["name"] for each in projections if "halted" in (each["problem"] or "")}


async def delete_events(bus: Bus) -> None:
    await bus.js.delete_stream(subjects.EVENTS)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_postgres_is_restored_to_an_earlier_state(stack: Stack, user: User, tmp_path: Path) -> None:
    agent = some_life(user)
    postgres, backup = stack.data_dir / "postgres", tmp_path / "backup"
    with stack.stopped():
        copy(postgres, backup)
    seen = more_life(user, agent)
    with stack.stopped():
        shutil.rmtree(postgres)
        copy(backup, postgres)

    user.until_sees(seen)
    assert used_quota(stack, agent["userId"]) >= user.calls
    user.check_goes_on(agent)


@pytest.mark.long
@pytest.mark.accept("A1")
def test_the_control_planes_history_is_lost(stack: Stack, user: User) -> None:
    agent = some_life(user)
    seen = more_life(user, agent)
    before = len(history_of(stack, agent["userId"]))
    on_bus(stack, delete_events)
    everyone = {
        "api.own-facts",
        "api.reactor",
        "api.history",
        "deployer.own-facts",
        "gateway.routes",
        "telemetry-ingest.deployments",
    }
    until(
        lambda: halted(stack) >= everyone and "own-facts" in stack.complaints("api"),
        "a halt",
        seconds=SETTLED_S,
    )
    refused = user.caller.http.post("/v1/agents", json={"name": "not now"})
    assert refused.status_code == 503, refused.text

    missing = sum(found["missing"] for found in republish(stack, "--dry-run").values())
    assert missing >= before
    # What was stated before its loss was noticed may be there, without what came before it.
    done = republish(stack, "--purge")
    assert sum(found["published"] for found in done.values()) >= missing
    assert sum(found["missing"] for found in republish(stack, "--dry-run").values()) == 0
    stack.webhost("streams", "replay", "--halted")
    stack.until_ready()

    user.until_sees(seen)
    user.check_goes_on(agent)


def of_nats(stack: Stack) -> list[Path]:
    """The directory of each NATS server."""
    return [stack.data_dir / name for name in stack.pids() if kind_of(name) == "nats"]


@pytest.mark.long
@pytest.mark.accept("A1")
def test_the_streams_are_restored_to_an_earlier_state(
    stack: Stack, user: User, tmp_path: Path
) -> None:
    agent = some_life(user)
    directories = of_nats(stack)
    with stack.stopped():
        for each in directories:
            copy(each, tmp_path / each.name)
    key = user.caller.http.post("/v1/keys", json={"name": "old", "scopes": ["invoke"]}).json()
    bearer = {"Authorization": f"Bearer {key['token']}"}
    assert user.caller.http.delete(f"/v1/keys/{key['key']['id']}").is_success
    seen = more_life(user, agent)
    assert stack.stop() == 0
    for each in directories:
        shutil.rmtree(each)
        copy(tmp_path / each.name, each)
    stack.launch()

    # Billing has folded usage that the stream lacks: its tables keep it, and it is not made twice.
    until(
        lambda: stack.complaints("billing") != {} and "api.own-facts" in halted(stack),
        "a halt",
        seconds=SETTLED_S,
    )
    # In the wrong order, it says so, and nobody takes what is left for all that there is.
    refused = stack.webhost("streams", "replay", "--halted", check=False)
    assert "`webhost streams republish` first" in refused.stderr
    refused = stack.webhost("streams", "replay", "gateway.routes", check=False)
    assert "own-facts is halted, and comes first" in refused.stderr
    assert {"api.own-facts", "gateway.routes"} <= halted(stack)
    path = f"/v1/invoke/{agent['id']}"
    called = user.caller.http.post(path, json={"input": {"prompt": "hello"}}, headers=bearer)
    assert called.status_code in (401, 503), called.text
    assert any(found["published"] for found in republish(stack).values())
    stack.webhost("streams", "replay", "--halted")
    stack.until_ready()

    user.until_sees(seen)
    user.check_goes_on(agent)


@pytest.mark.accept("A1")
def test_both_are_restored_to_an_earlier_state(stack: Stack, user: User, tmp_path: Path) -> None:
    """What came after it never happened, but for scripts that were removed."""
    agent = some_life(user)
    seen, calls = user.view(), user.calls
    directories = [stack.data_dir / "postgres", *of_nats(stack)]
    with stack.stopped():
        for each in directories:
            copy(each, tmp_path / each.name)
    more_life(user, agent)
    with stack.stopped():
        for each in directories:
            shutil.rmtree(each)
            copy(tmp_path / each.name, each)

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
