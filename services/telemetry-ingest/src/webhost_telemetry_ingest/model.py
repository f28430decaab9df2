"""Pure: what is remembered of deployments, and how facts change it."""

from dataclasses import dataclass, field

from webhost_contracts import subjects
from webhost_contracts.events import DeploymentStarted, Envelope, Event
from webhost_contracts.events.base import by_name

SUBJECTS = (subjects.events_of_kind(DeploymentStarted.kind()),)
TYPES = by_name(DeploymentStarted)


@dataclass(frozen=True)
class Deployment:
    """Whose it is, and which key it signs with. `version` is the last fact's."""

    version: int
    user_id: str
    agent_id: str
    runtime_provider: str
    key_version: int
    key_generation: int


@dataclass
class Deployments:
    """All deployments that were ever started, by id. An old one's events may still arrive."""

    by_id: dict[str, Deployment] = field(default_factory=dict[str, Deployment])

    def add(self, deployment_id: str, deployment: Deployment) -> None:
        """Take a deployment in, unless a newer version of it is known."""
        known = self.by_id.get(deployment_id)
        if known is None or deployment.version > known.version:
            self.by_id[deployment_id] = deployment

    def evolve(self, envelope: Envelope, event: Event) -> None:
        """Take a fact in; one that was seen before changes nothing."""
        if isinstance(event, DeploymentStarted):
            deployment = Deployment(
                version=envelope.version,
                user_id=envelope.user_id,
                agent_id=event.agent_id,
                runtime_provider=event.runtime_provider,
                key_version=event.key_version,
                key_generation=event.key_generation,
            )
            self.add(envelope.aggregate_id, deployment)
