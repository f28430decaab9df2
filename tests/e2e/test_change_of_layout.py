"""An installation changes from a plain account to a dispatch namespace and back, by redeploys."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.account import Account
from tests.support.caller import IN_FORCE_S, Caller
from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

IN_USE, RETIRED = "CLOUDFLARE_DISPATCH_NAMESPACE", "CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE"
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
def test_sessions_and_rollback_survive_a_change_of_layout(
    plain_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk.begun(plain_stack.caller("ulla"))
    for settings in ({IN_USE: "customers"}, {RETIRED: "customers"}):
        with plain_stack.stopped():
            for name in (IN_USE, RETIRED):
                monkeypatch.delenv(name, raising=False)
            for name, value in settings.items():
                monkeypatch.setenv(name, value)
        talk.user = plain_stack.caller("ulla")
        talk.until_answered_by(len(talk.versions))
        talk.deploy()
        for version in (*reversed(range(1, len(talk.versions))), len(talk.versions)):
            talk.activate(version)

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
