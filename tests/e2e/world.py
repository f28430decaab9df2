"""Agents on a stack that suffers faults, and what must hold once it has recovered."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.account import Account, whole
from tests.support.caller import IN_FORCE_S, Caller
from tests.support.deadline import until
from tests.support.history import Recorded, history_of, is_whole
from tests.support.retrying import RetryingClient
from tests.support.stack import Stack

TIDY_S = 30

FIRST, SECOND = "the first", "the second"


def answering(text: str) -> str:
    """A module that always says this."""
    return f"export default {{ async invoke() {{ return {text!r}; }} }};"


@dataclass
class TestAgent:
    """A user of its own with one agent, whose first deployment answers."""

    __test__ = False

    stack: Stack
    user: RetryingClient
    user_id: str
    agent_id: str
    first: dict[str, Any]

    @classmethod
    def on(cls, stack: Stack, module: str = answering(FIRST)) -> "TestAgent":
        caller = stack.caller()
        agent = caller.create_agent()
        first = caller.deploy(agent["id"], moduleCode=module)
        return cls(stack, RetryingClient(caller), agent["userId"], agent["id"], first)

    def agent(self) -> dict[str, Any]:
        return self.user.get(f"/v1/agents/{self.agent_id}")["agent"]

    def deployments(self) -> list[dict[str, Any]]:
        return self.user.get(f"/v1/agents/{self.agent_id}/deployments")["deployments"]

    def history(self) -> list[Recorded]:
        return history_of(self.stack, self.user_id)

    def check_history(self) -> None:
        """Return when what was stated of the user's things is on the stream, without a gap."""
        until(lambda: is_whole(self.stack, self.user_id), "an unbroken history", seconds=TIDY_S)

    def deploy_second(self) -> dict[str, Any]:
        return self.user.deploy(self.agent_id, moduleCode=answering(SECOND))

    def check_second_is_in_force(self, second: dict[str, Any]) -> None:
        """It was deployed once, the pointer names it, and it is what answers everywhere."""
        assert second["status"] == "active", second
        found = [(d["id"], d["version"], d["status"]) for d in self.deployments()]
        assert found == [(second["id"], 2, "active"), (self.first["id"], 1, "inactive")]
        agent = self.agent()
        assert (agent["status"], agent["activeDeploymentId"]) == ("active", second["id"])

    def until_every_gateway(self, status: int, said: str) -> None:
        """Return when each gateway answers the agent's calls with this status and words."""
        for caller in self.stack.at_each_gateway(self.user.caller):
            until(
                lambda caller=caller: _answers(caller, self.agent_id, status, said),
                f"{caller.http.base_url} to answer {status} {said!r}",
                seconds=IN_FORCE_S,
            )

    def until_tidy(self) -> None:
        """Return when the edge holds the scripts and routes of what is kept, and no other."""
        account = Account(self.stack)
        kept: set[str] = set()
        known = {f.aggregate_id for f in self.history() if f.aggregate_id.startswith("dep_")}
        if not self.is_deleted():
            deployments = self.deployments()
            known |= {d["id"] for d in deployments}
            kept = {d["id"] for d in deployments if d["status"] in ("active", "inactive")}
        until(
            lambda: (
                (account.scripts_of(self.agent_id), account.routes_of(self.agent_id, known))
                == whole(self.agent_id, kept)
            ),
            "the edge to hold what is kept and nothing else",
            seconds=TIDY_S,
        )

    def is_deleted(self) -> bool:
        return self.user.caller.http.get(f"/v1/agents/{self.agent_id}").status_code == 404


def _answers(caller: Caller, agent_id: str, status: int, said: str) -> bool:
    try:
        answer = caller.post_invoke(agent_id, "Who is it?")
    except httpx.TransportError:
        return False
    return answer.status_code == status and said in answer.text
