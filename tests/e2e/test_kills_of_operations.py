"""Any process may be killed while agents are rolled back, disabled, deleted, or keep sessions.

`make test` has one victim for each; `make test-long` has all.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from webhost_kit.clock import now_ms

from tests.e2e.world import FIRST, SECOND, TIDY_S, TestAgent
from tests.support.account import Account
from tests.support.deadline import until
from tests.support.faults import Death, Kill
from tests.support.repeating import Repeating
from tests.support.sessions import Sessions, sessions_of
from tests.support.stack import Stack

PROCESSES = (
    *("api", "deployer", "gateway", "telemetry-ingest", "billing"),
    *("edge", "nats", "postgres", "workers"),
)
LATEST_KILL_S = 0.5
BEFORE, AFTER = 2, 3
"""Operations that are done before the kill may fall, and after it."""
ATTEMPTS = 5
TURN_PAUSE_S = 0.2
"""A session keeps its last hundred turns: all of a test's have to be among them."""

Record = Callable[[str, object], None]


def victims(*usual: str) -> pytest.MarkDecorator:
    """Every process; those that are not usual only in the long run."""
    return pytest.mark.parametrize(
        "victim",
        [pytest.param(p, marks=() if p in usual else pytest.mark.long) for p in PROCESSES],
    )


def kill_during(
    stack: Stack, chance: random.Random, victim: str, operation: Callable[[int], None]
) -> tuple[Death, int]:
    """Repeat the operation, kill the victim in between, go on; return how many were done."""
    kill = Kill(victim)
    with Repeating(operation) as repeating:
        repeating.wait_for(BEFORE)
        before, done = kill.prepare(stack), repeating.done
        death = kill.strike(stack, before, chance.uniform(0, LATEST_KILL_S))
        repeating.wait_for(AFTER)
    line = f"{victim} died in one of the operations {done} to {repeating.done}"
    print(line)
    return death, repeating.done


@pytest.mark.accept("4.pointer")
@pytest.mark.accept("4")
@victims("api", "gateway")
@pytest.mark.timeout(300)
def test_rollback(sturdy_stack: Stack, chance: random.Random, victim: str) -> None:
    agent = TestAgent.on(sturdy_stack)
    second = agent.deploy_second()
    choices = [(agent.first["id"], FIRST), (second["id"], SECOND)]

    def activate(number: int) -> None:
        chosen, _ = choices[number % 2]
        path = f"/v1/agents/{agent.agent_id}/deployments/{chosen}/activate"
        assert agent.user.post(path)["agent"]["activeDeploymentId"] == chosen

    _, done = kill_during(sturdy_stack, chance, victim, activate)
    for number in (done - 1, done):  # and one more: a pointer that does not move fits either
        if number == done:
            activate(number)
        chosen, text = choices[number % 2]
        assert {d["id"]: d["status"] for d in agent.deployments()} == {
            deployment_id: "active" if deployment_id == chosen else "inactive"
            for deployment_id, _ in choices
        }
        assert agent.agent()["activeDeploymentId"] == chosen
        agent.until_every_gateway(200, text)
    agent.check_history()
    flips = [f for f in agent.history() if f.type_name == "agent.deployment_activated.v1"]
    # The first deployment's, the second's, and each rollback's once.
    assert len({fact.version for fact in flips}) == 2 + done + 1
    agent.until_tidy()


@pytest.mark.accept("4.pointer")
@pytest.mark.accept("4")
@victims("nats")
@pytest.mark.timeout(300)
def test_disabling_and_enabling(sturdy_stack: Stack, chance: random.Random, victim: str) -> None:
    agent = TestAgent.on(sturdy_stack)
    verbs = ("disable", "enable")

    def switch(number: int) -> None:
        shown = agent.user.post(f"/v1/agents/{agent.agent_id}/{verbs[number % 2]}")["agent"]
        assert shown["status"] == ("disabled", "active")[number % 2]

    _, done = kill_during(sturdy_stack, chance, victim, switch)
    for number in (done - 1, done):
        if number == done:
            switch(number)
        if number % 2 == 0:
            agent.until_every_gateway(403, "agent_disabled")
            assert agent.agent()["status"] == "disabled"
        else:
            agent.until_every_gateway(200, FIRST)
            assert agent.agent()["status"] == "active"

    def decided() -> int:
        return len({f.version for f in agent.history() if f.type_name.endswith("abled.v1")})

    # A gateway shows every second switch alike, and the relay may have many before it.
    until(lambda: decided() >= done + 1, "every switch to be published", seconds=TIDY_S)
    agent.check_history()
    assert decided() == done + 1


def until_gone(sessions: Sessions, session_id: str) -> None:
    """Return when nothing is left of the session; nor can a call that still runs make another."""
    until(
        lambda: sessions.ask("history", sessionId=session_id)[0] == 410,
        "the session to go with its agent",
        seconds=20,
    )
    assert sessions.ask("open")[0] == 410


# Answers with everything that the session's user said so far.
RECALLING = """
export default {
  async invoke(request, context) {
    const said = (await context.session.history()).filter((m) => m.role === "user");
    return JSON.stringify(said.map((m) => m.content));
  },
};
"""


@pytest.mark.accept("5.sessions")
@pytest.mark.accept("4")
@victims("edge")
@pytest.mark.timeout(300)
def test_a_session(sturdy_stack: Stack, chance: random.Random, victim: str) -> None:
    """It keeps every turn that was answered, in order and once, and then goes with its agent."""
    agent = TestAgent.on(sturdy_stack, RECALLING)
    session_id = agent.user.invoke(agent.agent_id, "turn one")["sessionId"]
    answered, unclear = ["turn one"], set[str]()

    def take_turn(number: int) -> None:
        while True:
            threading.Event().wait(TURN_PAUSE_S)
            prompt = f"turn {len(answered) + len(unclear)} of {number}"
            try:
                answer = agent.user.caller.post_invoke(agent.agent_id, prompt, sessionId=session_id)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                answered.append(prompt)
                return
            # The session is not to blame: it is never unknown, and never anyone else's.
            assert answer is None or "session_expired" not in answer.text, answer.text
            unclear.add(prompt)

    kill_during(sturdy_stack, chance, victim, take_turn)
    with sessions_of(sturdy_stack, agent.agent_id) as sessions:
        kept = [said for said in sessions.history(session_id) if said.startswith("turn ")]
        assert [said for said in kept if said not in unclear] == answered
        assert len(kept) == len(set(kept))

        agent.user.delete(f"/v1/agents/{agent.agent_id}")
        agent.until_tidy()
        until_gone(sessions, session_id)


@pytest.mark.accept("8.purge")
@pytest.mark.accept("4")
@victims("deployer")
@pytest.mark.timeout(400)
def test_deletion(
    sturdy_stack: Stack, chance: random.Random, record_property: Record, victim: str
) -> None:
    latest_s = LATEST_KILL_S
    for _ in range(ATTEMPTS):
        agent = TestAgent.on(sturdy_stack)
        session_id = agent.user.invoke(agent.agent_id, "Remember me.")["sessionId"]
        agent.deploy_second()
        with sessions_of(sturdy_stack, agent.agent_id) as sessions:
            assert "Remember me." in sessions.history(session_id)
            kill = Kill(victim)
            before, asked_ms = kill.prepare(sturdy_stack), now_ms()
            with ThreadPoolExecutor(1) as pool:
                deletion = pool.submit(agent.user.delete, f"/v1/agents/{agent.agent_id}")
                death = kill.strike(sturdy_stack, before, chance.uniform(0, latest_s))
                deletion.result(timeout=90)
            agent.until_tidy()
            agent.check_history()
            agent.until_every_gateway(404, "NOT_FOUND")
            until_gone(sessions, session_id)
        stated = [f for f in agent.history() if f.at_ms <= death.at_ms]
        ended_ms = max(f.at_ms for f in agent.history() if f.type_name.endswith("torn_down.v1"))
        line = f"{victim} died {death.at_ms - asked_ms} ms in; last fact: {stated[-1]}"
        print(line)
        record_property("death", line)
        assert not Account(sturdy_stack).scripts_of(agent.agent_id)
        if death.at_ms < ended_ms:
            return
        latest_s /= 2
    pytest.fail(f"none of {ATTEMPTS} kills fell inside the deletion")
