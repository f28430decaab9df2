"""Facts about an agent's secrets, stated by the deployer: names, never values, sealed or not.

All secrets of one agent are one aggregate, whose version is the version of the secrets: a
deployment's `secrets_version` says up to which of these facts its Worker has them.
"""

from webhost_contracts import subjects
from webhost_contracts.events.base import Event


class SecretEvent(Event, frozen=True, kw_only=True):
    """A fact about secrets of one agent."""

    agent_id: str
    keys: tuple[str, ...]

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the subject of all facts about the agent's secrets."""
        return subjects.event(user_id, "secret", self.agent_id)


class SecretSet(SecretEvent, frozen=True, kw_only=True, tag="secret.set.v1"):
    """The secrets of these names have new values."""


class SecretDeleted(SecretEvent, frozen=True, kw_only=True, tag="secret.deleted.v1"):
    """The secrets of these names have no value any more."""
