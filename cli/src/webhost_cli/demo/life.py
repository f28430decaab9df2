"""The demo's main part, from creating the agent to the rollback; every answer is checked."""

import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from webhost_cli import waiting
from webhost_cli.demo.calls import Answer, Calls
from webhost_cli.demo.narrator import DemoFailed, Narrator
from webhost_cli.errors import CommandError

_GREETING = "Hello from the demo"
# The countdown pauses four times for 150 ms; a buffered answer would arrive all at once.
_LEAST_SPREAD_S = 0.4


@dataclass(frozen=True)
class Agent:
    """The resulting agent and its deployments, oldest first."""

    id: str
    deployment_ids: list[str]


def live(narrator: Narrator, calls: Calls) -> Agent:
    """Create, deploy, invoke, stream, deploy again, roll back."""
    with narrator.step("Create an agent"):
        agent = calls.start("/v1/agents", {"name": "demo", "description": "An agent's whole life"})
        agent_id = agent["agent"]["id"]
        narrator.check("status", expected="created", actual=agent["agent"]["status"])

    with narrator.step("Deploy the template"):
        first = _deploy(narrator, calls, agent_id, {})
        narrator.check("version", expected=1, actual=first["version"])
        calls.wait_until_calls_reach(agent_id, first["id"])

    with narrator.step("Invoke it"):
        answer = calls.invoke(agent_id, _GREETING)
        _check_answer(narrator, answer, _GREETING, f"You said: {_GREETING}")
        session = answer.session_id

    with narrator.step("Invoke it, streamed"):
        answer = calls.stream(agent_id, _GREETING)
        _check_answer(narrator, answer, _GREETING, f"You said: {_GREETING}")
        words = len(f"You said: {_GREETING}".split())
        narrator.check("pieces, one per word", expected=words, actual=len(answer.arrivals))

    with narrator.step("A second turn in the first session"):
        answer = calls.invoke(agent_id, "And again", session)
        _check_answer(narrator, answer, "And again", "You said: And again (turn 2)")
        narrator.check("session", expected=session, actual=answer.session_id)

    with narrator.step("Deploy a second version from a module of its own"):
        module = files("webhost_cli.demo").joinpath("countdown.mjs").read_text("utf-8")
        body = {"moduleCode": module, "mainModuleName": "countdown.mjs"}
        second = _deploy(narrator, calls, agent_id, body)
        narrator.check("version", expected=2, actual=second["version"])
        older = calls.get(f"/v1/deployments/{first['id']}")["deployment"]
        narrator.check("status of version 1", expected="inactive", actual=older["status"])
        [source] = calls.get(f"/v1/deployments/{second['id']}/source")["modules"]
        narrator.check(
            "its source is what was sent", expected=True, actual=source["content"] == module
        )
        calls.wait_until_calls_reach(agent_id, second["id"])

    with narrator.step("Invoke the second version: it streams, and the session is still known"):
        answer = calls.stream(agent_id, "Count", session)
        _check_answer(narrator, answer, "Count", "Turn 3: three two one liftoff")
        narrator.check("session", expected=session, actual=answer.session_id)
        narrator.check("answered by", expected=second["id"], actual=answer.deployment_id)
        spread_s = answer.arrivals[-1] - answer.arrivals[0]
        narrator.holds(
            f"its {len(answer.arrivals)} pieces arrived over {spread_s * 1000:.0f} ms, "
            "each when it was written",
            spread_s >= _LEAST_SPREAD_S,
        )

    with narrator.step("Roll back to version 1"):
        path = f"/v1/agents/{agent_id}/deployments/{first['id']}/activate"
        flipped = calls.start(path, {"reason": "the demo rolls back"})
        narrator.check("status", expected="active", actual=flipped["deployment"]["status"])
        pointer = flipped["agent"]["activeDeploymentId"]
        narrator.check("the agent's pointer", expected=first["id"], actual=pointer)
        calls.wait_until_calls_reach(agent_id, first["id"])

    with narrator.step("Invoke version 1 again"):
        answer = calls.invoke(agent_id, "Back again", session)
        _check_answer(narrator, answer, "Back again", "You said: Back again (turn 4)")

    return Agent(agent_id, [first["id"], second["id"]])


def _deploy(
    narrator: Narrator, calls: Calls, agent_id: str, body: dict[str, Any]
) -> dict[str, Any]:
    started = calls.start(f"/v1/agents/{agent_id}/deploy", body)["deployment"]
    narrator.check("status at first", expected="deploying", actual=started["status"])
    try:
        ended = waiting.until_ended(calls.api, started, lambda _: None)
    except CommandError as error:
        raise DemoFailed(str(error)) from error
    narrator.got("the deployment", ended)
    if reason := waiting.failure(ended):
        raise DemoFailed(reason)
    narrator.check("status then", expected="active", actual=ended["status"])
    agent = calls.get(f"/v1/agents/{agent_id}")["agent"]
    pointer = agent["activeDeploymentId"]
    narrator.check("the agent's pointer", expected=ended["id"], actual=pointer)
    return ended


def _check_answer(narrator: Narrator, answer: Answer, prompt: str, text: str) -> None:
    narrator.check("text", expected=text, actual=answer.text)
    # The platform's estimate where a module reports none: four characters are a token.
    estimate = math.ceil((len(prompt) + len(text)) / 4)
    narrator.check("tokens", expected=estimate, actual=answer.tokens)
