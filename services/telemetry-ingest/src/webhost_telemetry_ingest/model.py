"""Pure: what is kept in memory about deployments and tiers, and how facts change it."""

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace

from webhost_contracts import subjects
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    Envelope,
    Event,
    TierChanged,
)
from webhost_contracts.events.base import by_name

SUBJECTS = tuple(subjects.events_of_kind(kind.kind()) for kind in (DeploymentStarted, TierChanged))
TYPES = by_name(
    DeploymentStarted,
    DeploymentTelemetryKeyRevoked,
    DeploymentFailed,
    DeploymentTornDown,
    TierChanged,
)

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


@dataclass(frozen=True)
class Account:
    """The tier of a user whose tier was ever changed."""

    version: int
    tier: str


@dataclass
class Deployments:
    """Deployments by id, and accounts by user.

    An ended deployment's reports may still arrive, for a while.
    """

    by_id: dict[str, Deployment] = field(default_factory=dict[str, Deployment])
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])

    def clear(self) -> None:
        """Forget everything."""
        self.by_id.clear()
        self.accounts.clear()

    def tier_of(self, user_id: str) -> str:
        """Return a user's tier."""
        account = self.accounts.get(user_id)
        return DEFAULT_TIER if account is None else account.tier

    def add(self, deployment_id: str, deployment: Deployment) -> None:
        """Add a deployment, unless a newer version of it is known."""
        known = self.by_id.get(deployment_id)
        if known is None or deployment.version > known.version:
            self.by_id[deployment_id] = deployment

    def add_account(self, user_id: str, account: Account) -> None:
        """Add a user's tier, unless a newer version of it is known."""
        known = self.accounts.get(user_id)
        if known is None or account.version > known.version:
            self.accounts[user_id] = account

    def merge(self, other: "Deployments") -> None:
        """Take over what is newer in the other."""
        for deployment_id, deployment in other.by_id.items():
            self.add(deployment_id, deployment)
        for user_id, account in other.accounts.items():
            self.add_account(user_id, account)

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
        elif isinstance(event, TierChanged):
            self.add_account(envelope.user_id, Account(envelope.version, event.tier))
        elif (known := self.by_id.get(envelope.aggregate_id)) is not None:
            self.add(envelope.aggregate_id, _after(known, envelope, event))

    def by_master_key(self) -> dict[str, int]:
        """Return how many deployments' reports may still arrive, by their master key's version."""
        return Counter(str(deployment.key_version) for deployment in self.by_id.values())

    def ids_by_master_key(self, most: int = 100) -> dict[str, tuple[str, ...]]:
        """Return the ids of the first of these deployments, those that have not ended before all
        others, by their master key's version.
        """
        ids: dict[str, list[tuple[bool, str]]] = {}
        for deployment_id, deployment in self.by_id.items():
            place = (deployment.ended_at_ms is not None, deployment_id)
            ids.setdefault(str(deployment.key_version), []).append(place)
        return {
            version: tuple(deployment_id for _, deployment_id in heapq.nsmallest(most, found))
            for version, found in ids.items()
        }

    def forget(self, at_ms: int) -> None:
        """Forget, as of this time, what ended long enough ago."""
        limit_ms = at_ms - KEPT_MS
        old = [k for k, d in self.by_id.items() if d.ended_at_ms and d.ended_at_ms < limit_ms]
        for deployment_id in old:
            del self.by_id[deployment_id]


def _after(known: Deployment, envelope: Envelope, event: Event) -> Deployment:
    version = envelope.version
    if isinstance(event, DeploymentTelemetryKeyRevoked):
        generation = event.key_generation
        return replace(
            known, version=version, key_version=event.key_version, key_generation=generation
        )
    return replace(known, version=version, ended_at_ms=envelope.occurred_at_ms)
