"""A secret's way from the command line to an agent's code, and nowhere else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.caller import Caller
from tests.support.canaries import Canaries, places_of
from tests.support.deadline import until
from tests.support.stack import Stack

APPLIED_S = 10
TELLS = """
export default { async invoke(_, context) {
  return JSON.stringify([VERSION, context.env]);
} };
"""


class Agent:
    """An agent that says which version it is, and what its environment holds."""

    def __init__(self, user: Caller, *keys: str) -> None:
        self.user = user
        self.id = user.create_agent(envVarKeys=keys)["id"]

    def deploy(self, version: int) -> str:
        return self.user.deploy(self.id, moduleCode=TELLS.replace("VERSION", str(version)))["id"]

    def activate(self, deployment_id: str) -> Any:
        path = f"/v1/agents/{self.id}/deployments/{deployment_id}/activate"
        return self.user.http.post(path)

    def set(self, **values: str) -> None:
        response = self.user.http.post(f"/v1/agents/{self.id}/secrets", json={"secrets": values})
        assert response.status_code == 204, response.text

    def listed(self) -> dict[str, bool]:
        answer = self.user.http.get(f"/v1/agents/{self.id}/secrets").raise_for_status()
        return {it["key"]: it["isSet"] for it in answer.json()["secrets"]}

    def tells(self) -> Any:
        return json.loads(self.user.invoke(self.id, "What is it?")["output"]["text"])

    def until_told(self, version: int, **env: str) -> None:
        told = [version, env]
        until(lambda: self.tells() == told, f"the agent to say {told}", seconds=APPLIED_S)


@pytest.mark.accept("7.3.reaches")
def test_a_secret_reaches_every_kept_deployment_without_a_deploy(stack: Stack) -> None:
    agent = Agent(stack.caller(), "KEY", "OTHER")
    agent.set(KEY="one", OTHER="o")
    first = agent.deploy(1)
    agent.until_told(1, KEY="one", OTHER="o")
    assert agent.listed() == {"KEY": True, "OTHER": True}

    agent.set(KEY='tw"o\\é')
    agent.until_told(1, KEY='tw"o\\é', OTHER="o")

    second = agent.deploy(2)
    agent.until_told(2, KEY='tw"o\\é', OTHER="o")
    agent.set(KEY="three")
    agent.until_told(2, KEY="three", OTHER="o")
    until(
        lambda: agent.activate(first).status_code == 200,
        "the older one to be brought up",
        seconds=APPLIED_S,
    )
    assert agent.user.agent(agent.id)["activeDeploymentId"] == first
    agent.until_told(1, KEY="three", OTHER="o")

    path = f"/v1/agents/{agent.id}/secrets/OTHER"
    assert agent.user.http.delete(path).status_code == 204
    agent.until_told(1, KEY="three")
    agent.user.http.patch(f"/v1/agents/{agent.id}", json={"envVarKeys": []}).raise_for_status()
    agent.until_told(1)
    until(lambda: agent.activate(second).status_code == 200, "a way back", seconds=APPLIED_S)
    agent.until_told(2)


@pytest.mark.accept("7.3.cli", "7.4.secrets")
def test_no_value_is_kept_logged_or_answered(
    stack: Stack, tmp_path: Any, given_command: Callable[..., Any]
) -> None:
    canaries = Canaries()
    agent = Agent(stack.caller("sam"), "SET", "PIPED", "IMPORTED", "REFUSED")
    agent.deploy(1)
    said = [
        given_command("set", agent.id, "PIPED", typed=canaries.new("piped")),
    ]
    in_file = canaries.new("imported", between="-")
    file = tmp_path / ".env"
    file.write_text(f"# ours\nexport IMPORTED='{in_file}'\n")
    said.append(given_command("import", agent.id, str(file), "--json"))
    said.append(
        given_command("set", agent.id, "UNDECLARED", typed=canaries.new("undeclared"), ends=2)
    )

    values = f"/v1/agents/{agent.id}/secrets"
    headers = {"Idempotency-Key": "once"}
    kept = {"secrets": {"SET": canaries.new("kept")}}
    answers = [agent.user.http.post(values, json=kept, headers=headers) for _ in range(2)]
    refused = [
        {"secrets": {"REFUSED": canaries.new("too long") * 100}},
        {"secrets": {"REFUSED": [canaries.new("not text")]}},
        {"secrets": {"REFUSED": canaries.new("with NUL") + "\x00"}},
        {"secrets": canaries.new("no object")},
        {"values": canaries.new("another field")},
    ]
    answers += [agent.user.http.post(values, json=body) for body in refused]
    broken = f'{{"secrets": {{"SET": "{canaries.new("no JSON", between="-")}"'
    answers.append(agent.user.http.post(values, content=broken))
    assert [it.status_code for it in answers] == [204, 204, *[400] * len(refused), 400]
    answers.append(agent.user.http.get(values))
    assert agent.listed() == {"SET": True, "PIPED": True, "IMPORTED": True, "REFUSED": False}
    until(
        lambda: agent.tells()[1].get("IMPORTED") == in_file,
        "the value to be there",
        seconds=APPLIED_S,
    )
    agent.deploy(2)
    agent.user.http.delete(f"/v1/agents/{agent.id}").raise_for_status()
    stack.until_deployer_rests()

    assert canaries.hits_in(("an answer", it.content) for it in answers) == []
    assert canaries.hits_in(("the terminal", it.encode()) for it in said) == []
    assert canaries.hits_in(places_of(stack)) == []

    planted = canaries.new("planted")
    agent.user.create_agent(name="planted", description=planted)
    agent.user.http.get(f"/v1/agents/{planted[:24]}")
    found = {hit.place for hit in canaries.hits_in(places_of(stack)) if hit.canary == "planted"}
    assert {"api.agents", "api.events", "stream EVENTS"} <= found


@pytest.fixture
def given_command(stack: Stack) -> Callable[..., str]:
    """Run a command about secrets as Sam; return all that it said."""

    def run(*arguments: str, typed: str | None = None, ends: int = 0) -> str:
        ended = stack.webhost("secrets", *arguments, "--as", "sam", check=False, typed=typed)
        assert ended.returncode == ends, (arguments, ended.stdout, ended.stderr)
        return ended.stdout + ended.stderr

    return run
