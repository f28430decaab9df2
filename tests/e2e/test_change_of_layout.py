"""An installation changes from a plain account to a dispatch namespace and back, by redeploys, as
its runbook says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.account import Account
from tests.support.caller import IN_FORCE_S, Caller
from tests.support.deadline import until
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack

IN_USE, RETIRED = "CLOUDFLARE_DISPATCH_NAMESPACE", "CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE"
PAGE = "dispatch-namespace.md"
GONE_S = 60
MODULE = """
export default { async invoke(_, { session }) {
  const turn = ((await session.get("turns")) ?? 0) + 1;
  await session.put("turns", turn);
  return `vVERSION ${turn}`;
} };
"""


@pytest.fixture
def plain_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack of its own on a plain account."""
    monkeypatch.delenv(IN_USE, raising=False)
    with running_stack() as running:
        yield running


@pytest.mark.long
@pytest.mark.accept("6.2")
@pytest.mark.timeout(300)
def test_sessions_and_rollback_survive_a_change_of_layout(
    plain_stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    talk = Talk.begun(plain_stack.caller("ulla"))
    names = {"NAMESPACE": "customers", "AGENT": talk.agent_id}

    def restarted_with(name: str) -> None:
        with plain_stack.stopped():
            for other in (IN_USE, RETIRED):
                monkeypatch.delenv(other, raising=False)
            monkeypatch.setenv(name, "customers")
        talk.user = plain_stack.caller("ulla")
        talk.until_answered_by(len(talk.versions))

    def deployed_and_rolled_back() -> None:
        talk.deploy()
        for version in (*reversed(range(1, len(talk.versions))), len(talk.versions)):
            talk.activate(version)

    with Runbook(plain_stack, PAGE, "Into the namespace", tmp_path) as runbook:
        runbook.step(names)
        restarted_with(IN_USE)
        runbook.step(names)
        deployed_and_rolled_back()
        runbook.rest(names)
    with Runbook(plain_stack, PAGE, "Back to a plain account", tmp_path) as runbook:
        restarted_with(RETIRED)
        runbook.step(names)
        deployed_and_rolled_back()
        runbook.rest(names)

    account = Account(plain_stack)
    assert len(account.scripts_of(talk.agent_id)) == 5, "two plain ones, one in the namespace"
    talk.user.http.delete(f"/v1/agents/{talk.agent_id}").raise_for_status()
    until(lambda: not account.scripts_of(talk.agent_id), "all to be gone", seconds=GONE_S)
    assert account.routes_of(talk.agent_id, set(talk.versions)) == set()


@dataclass
class Talk:
    """One session with one agent, whose versions say which they are and count the turns."""

    user: Caller
    agent_id: str
    versions: list[str] = field(default_factory=list[str])
    session_id: str | None = None
    turns: int = 0

    @classmethod
    def begun(cls, user: Caller) -> "Talk":
        """A talk with a new agent's first version."""
        talk = cls(user, user.create_agent()["id"])
        talk.deploy()
        return talk

    def deploy(self) -> None:
        """Deploy the next version, which then answers."""
        version = len(self.versions) + 1
        code = MODULE.replace("VERSION", str(version))
        self.versions.append(self.user.deploy(self.agent_id, moduleCode=code)["id"])
        self.until_answered_by(version)

    def activate(self, version: int) -> None:
        """Roll to a version, which then answers."""
        path = f"/v1/agents/{self.agent_id}/deployments/{self.versions[version - 1]}/activate"
        self.user.http.post(path).raise_for_status()
        self.until_answered_by(version)

    def until_answered_by(self, version: int) -> None:
        """Take turns until this version answers; none of them may have lost the session."""

        def answers() -> bool:
            answer = self.user.invoke(self.agent_id, "again", sessionId=self.session_id)
            self.session_id = answer["sessionId"]
            self.turns += 1
            said, turn = answer["output"]["text"].split()
            assert turn == str(self.turns)
            return said == f"v{version}"

        until(answers, f"version {version} to answer", seconds=IN_FORCE_S)
