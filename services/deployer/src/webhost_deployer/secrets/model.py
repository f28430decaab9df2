"""All secrets of one agent, as an aggregate of which only the version is known. Pure."""

from msgspec.structs import replace
from webhost_contracts import ids
from webhost_contracts.events import Envelope
from webhost_contracts.events.base import Event
from webhost_contracts.events.secret import SecretEvent
from webhost_contracts.wire import Wire


class AgentSecrets(Wire, frozen=True, kw_only=True):
    """The state row; the sealed values are beside it, since no fact has them."""

    agent_id: str
    user_id: str
    version: int = 0

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return ids.secrets_of(self.agent_id)


def evolve(state: AgentSecrets | None, envelope: Envelope, event: Event) -> AgentSecrets:
    """Return the secrets after a fact; the first fact creates them."""
    if not isinstance(event, SecretEvent):
        raise TypeError(f"not a fact about secrets: {type(event).__name__}")
    if state is None:
        state = AgentSecrets(agent_id=event.agent_id, user_id=envelope.user_id)
    return replace(state, version=envelope.version)
