"""Pure: what is kept in memory about deployments, and how facts change it."""

from dataclasses import dataclass, field, replace

from webhost_contracts import subjects
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentTornDown,
    Envelope,
    Event,
)
from webhost_contracts.events.base import by_name

SUBJECTS = (subjects.events_of_kind(DeploymentStarted.kind()),)
TYPES = by_name(DeploymentStarted, DeploymentFailed, DeploymentTornDown)

KEPT_MS = 36 * 24 * 3600 * 1000
"""How long a deployment is kept after it ended: older reports are refused anyway."""


@dataclass(frozen=True)
class Deployment:
    """Whose it is, and which key it signs with. `version` is that of the last fact folded in."""

    version: int
    user_id: str
    agent_id: str
    runtime_provider: str
    key_version: int
    key_generation: int
    ended_at_ms: int | None = None


@dataclass
class Deployments:
    """Deployments by id. An ended one's reports may still arrive, for a while."""

    by_id: dict[str, Deployment] = field(default_factory=dict[str, Deployment])

    def add(self, deployment_id: str, deployment: Deployment) -> None:
        """Add a deployment, unless a newer version of it is known."""
        known = self.by_id.get(deployment_id)
        if known is None or deployment.version > known.version:
            self.by_id[deployment_id] = deployment

    def merge(self, other: "Deployments") -> None:
        """Take over what is newer in the other."""
        for deployment_id, deployment in other.by_id.items():
            self.add(deployment_id, deployment)

    def evolve(self, envelope: Envelope, event: Event) -> None:
        """Fold a fact in; one that was seen before changes nothing."""
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
        elif (known := self.by_id.get(envelope.aggregate_id)) is not None:
            version, ended_at_ms = envelope.version, envelope.occurred_at_ms
            self.add(
                envelope.aggregate_id, replace(known, version=version, ended_at_ms=ended_at_ms)
            )

    def forget(self, at_ms: int) -> None:
        """Forget, as of this time, what ended long enough ago."""
        limit_ms = at_ms - KEPT_MS
        old = [k for k, d in self.by_id.items() if d.ended_at_ms and d.ended_at_ms < limit_ms]
        for deployment_id in old:
            del self.by_id[deployment_id]
