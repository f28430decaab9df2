"""Agents on a stack that tests break, and what must be true of them once it is whole again."""

from dataclasses import dataclass, field
from typing import Any

from tests.support.account import Account, script_name
from tests.support.deadline import until
from tests.support.retrying import RetryingClient
from tests.support.stack import Stack

TIDY_S = 30

FIRST, SECOND = "the first", "the second"


def answering(text: str) -> str:
    """A module that always says this."""
    return f"export default {{ async invoke() {{ return {text!r}; }} }};"


@dataclass
class Resident:
    """A user of their own with one agent, whose first deployment answers."""

    user: RetryingClient
    agent_id: str
    first_id: str

    def agent(self) -> dict[str, Any]:
        return self.user.get(f"/v1/agents/{self.agent_id}")["agent"]

    def deployments(self) -> list[dict[str, Any]]:
        return self.user.get(f"/v1/agents/{self.agent_id}/deployments")["deployments"]

    def deploy_second(self) -> dict[str, Any]:
        return self.user.deploy(self.agent_id, moduleCode=answering(SECOND))

    def check_second_is_in_force(self, second: dict[str, Any]) -> None:
        """It was deployed once, the pointer names it, and it is what answers."""
        assert second["status"] == "active", second
        found = [(d["id"], d["version"], d["status"]) for d in self.deployments()]
        assert found == [(second["id"], 2, "active"), (self.first_id, 1, "inactive")]
        agent = self.agent()
        assert (agent["status"], agent["activeDeploymentId"]) == ("active", second["id"])


@dataclass
class World:
    """Everybody on the stack, so that what is on the edge can be held against what is kept."""

    stack: Stack
    account: Account
    residents: list[Resident] = field(default_factory=list[Resident])

    def resident(self) -> Resident:
        """Somebody new."""
        caller = self.stack.caller()
        agent = caller.create_agent()
        first = caller.deploy(agent["id"], moduleCode=answering(FIRST))
        resident = Resident(RetryingClient(caller), agent["id"], first["id"])
        self.residents.append(resident)
        return resident

    def until_tidy(self) -> None:
        """Return when the edge holds exactly the scripts and routes of what is kept."""
        kept = {
            (resident.agent_id, deployment["id"])
            for resident in self.residents
            if not _is_deleted(resident)
            for deployment in resident.deployments()
            if deployment["status"] in ("active", "inactive")
        }
        scripts = {script_name(*ids) for ids in kept}
        routes = {deployment_id for _, deployment_id in kept}
        until(
            lambda: (self.account.scripts(), self.account.routes()) == (scripts, routes),
            "the edge to hold what is kept and nothing else",
            seconds=TIDY_S,
        )


def _is_deleted(resident: Resident) -> bool:
    return resident.user.caller.http.get(f"/v1/agents/{resident.agent_id}").status_code == 404
