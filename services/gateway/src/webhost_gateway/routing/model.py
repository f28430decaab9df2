"""Where invocations go, and who may make them: the facts about agents, deployments, accounts
and API keys, folded.

Pure. A fact is accepted when its version is above the last one seen of its aggregate, and
skipped otherwise, so the table never goes back, in whatever order facts arrive. Entries that have
ended are removed some time later: no call can reach them any more. Only `clear` forgets what was
seen as if it had never been.
"""

from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

from webhost_contracts import subjects
from webhost_contracts.api_keys import KeyLimits
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    AgentUpdated,
    DeploymentActivated,
    DeploymentFailed,
    DeploymentStarted,
    DeploymentSucceeded,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    Envelope,
    Event,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    TierChanged,
)
from webhost_contracts.events.base import by_name

TYPES = by_name(
    AgentCreated,
    AgentUpdated,
    AgentDisabled,
    AgentEnabled,
    AgentDeleted,
    DeploymentActivated,
    DeploymentStarted,
    DeploymentSucceeded,
    DeploymentFailed,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    TierChanged,
    AccountDisabled,
    AccountEnabled,
    KeyCreated,
    KeyRotated,
    KeyRevoked,
)
SUBJECTS = tuple(
    subjects.events_of_kind(kind) for kind in ("agent", "deployment", "account", "key")
)

DEPLOYMENT_KEPT_MS = 3600 * 1000
AGENT_KEPT_MS = 24 * 3600 * 1000
KEY_KEPT_MS = AGENT_KEPT_MS
"""How long an entry is kept after it ended, by the time of the fact that ended it."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Whose it is, whether it may be called, which deployment its pointer names, and its name,
    for traces.
    """

    version: int
    user_id: str
    disabled: bool = False
    deployment_id: str | None = None
    deleted_at_ms: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a deployment answers, and which telemetry key it has.

    There is no address before it succeeded and after its teardown.
    """

    version: int
    runtime_provider: str
    invoke_url: str | None = None
    ended_at_ms: int | None = None
    key_version: int = 0
    key_generation: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What billing decided about a user: the tier, where one was ever set, and the status."""

    version: int
    tier: str | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """An API key: whose it is, what it allows, and the hashes of its secrets.

    The previous secret is good until `previous_expires_at_ms`.
    """

    version: int
    user_id: str
    scopes: tuple[str, ...] = ()
    agent_ids: tuple[str, ...] | None = None
    expires_at_ms: int | None = None
    limits: KeyLimits | None = None
    secret_hash: str = ""
    previous_hash: str | None = None
    previous_expires_at_ms: int | None = None
    revoked_at_ms: int | None = None

    @property
    def ended_at_ms(self) -> float:
        """Return when it ended, or will."""
        times = (self.revoked_at_ms, self.expires_at_ms)
        return min((at_ms for at_ms in times if at_ms is not None), default=inf)


@dataclass(slots=True)
class RouteTable:
    """Agents, deployments and API keys by their id, accounts by the user's."""

    agents: dict[str, Agent] = field(default_factory=dict[str, Agent])
    deployments: dict[str, Deployment] = field(default_factory=dict[str, Deployment])
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    keys: dict[str, Key] = field(default_factory=dict[str, Key])

    def clear(self) -> None:
        """Forget everything."""
        for known in (self.agents, self.deployments, self.accounts, self.keys):
            known.clear()

    def merge(self, other: "RouteTable") -> None:
        """Take over what is newer in the other table."""
        _merge(self.agents, other.agents)
        _merge(self.deployments, other.deployments)
        _merge(self.accounts, other.accounts)
        _merge(self.keys, other.keys)

    def evolve(self, envelope: Envelope, event: Event) -> None:
        """Take note of one fact."""
        version, key = envelope.version, envelope.aggregate_id
        match event.kind():
            case "agent":
                agent = self.agents.get(key) or Agent(0, envelope.user_id)
                if version > agent.version:
                    self.agents[key] = _agent(agent, envelope, event)
            case "deployment":
                deployment = self.deployments.get(key) or Deployment(0, "")
                if version > deployment.version:
                    self.deployments[key] = _deployment(deployment, envelope, event)
            case "key":
                api_key = self.keys.get(key) or Key(0, envelope.user_id)
                if version > api_key.version:
                    self.keys[key] = _key(api_key, envelope, event)
            case _:
                account = self.accounts.get(envelope.user_id) or Account(0)
                if version > account.version:
                    self.accounts[envelope.user_id] = _account(account, envelope, event)

    def forget(self, at_ms: int) -> None:
        """Forget, as of this time, what ended long enough ago."""
        for key in [
            k for k, a in self.agents.items() if _before(a.deleted_at_ms, at_ms - AGENT_KEPT_MS)
        ]:
            del self.agents[key]
        ended = at_ms - DEPLOYMENT_KEPT_MS
        for key in [k for k, d in self.deployments.items() if _before(d.ended_at_ms, ended)]:
            del self.deployments[key]
        for key in [k for k, it in self.keys.items() if it.ended_at_ms < at_ms - KEY_KEPT_MS]:
            del self.keys[key]


R = TypeVar("R", Agent, Deployment, Account, Key)


def _merge(known: dict[str, R], others: dict[str, R]) -> None:
    for key, other in others.items():
        if (row := known.get(key)) is None or other.version > row.version:
            known[key] = other


def _before(at_ms: int | None, limit_ms: int) -> bool:
    return at_ms is not None and at_ms < limit_ms


def _agent(agent: Agent, envelope: Envelope, event: Event) -> Agent:
    version = envelope.version
    match event:
        case AgentCreated() | AgentUpdated():
            return replace(agent, version=version, name=event.name)
        case AgentDisabled():
            return replace(agent, version=version, disabled=True)
        case AgentEnabled():
            return replace(agent, version=version, disabled=False)
        case AgentDeleted():
            return replace(agent, version=version, deleted_at_ms=envelope.occurred_at_ms)
        case DeploymentActivated():
            return replace(agent, version=version, deployment_id=event.deployment_id)
        case _:
            return replace(agent, version=version)


def _deployment(deployment: Deployment, envelope: Envelope, event: Event) -> Deployment:
    version, at_ms = envelope.version, envelope.occurred_at_ms
    match event:
        case DeploymentStarted():
            return replace(
                deployment,
                version=version,
                runtime_provider=event.runtime_provider,
                key_version=event.key_version,
                key_generation=event.key_generation,
            )
        case DeploymentTelemetryKeyRevoked():
            return replace(
                deployment,
                version=version,
                key_version=event.key_version,
                key_generation=event.key_generation,
            )
        case DeploymentSucceeded():
            return replace(deployment, version=version, invoke_url=event.invoke_url)
        case DeploymentFailed() | DeploymentTornDown():
            return replace(deployment, version=version, invoke_url=None, ended_at_ms=at_ms)
        case _:
            return replace(deployment, version=version)


def _key(key: Key, envelope: Envelope, event: Event) -> Key:
    version = envelope.version
    match event:
        case KeyCreated():
            return Key(
                version,
                key.user_id,
                scopes=event.scopes,
                agent_ids=event.agent_ids,
                expires_at_ms=event.expires_at_ms,
                limits=event.limits,
                secret_hash=event.secret_hash,
            )
        case KeyRotated():
            return replace(
                key,
                version=version,
                secret_hash=event.secret_hash,
                previous_hash=key.secret_hash,
                previous_expires_at_ms=event.previous_expires_at_ms,
            )
        case KeyRevoked():
            return replace(key, version=version, revoked_at_ms=envelope.occurred_at_ms)
        case _:
            return replace(key, version=version)


def _account(account: Account, envelope: Envelope, event: Event) -> Account:
    version = envelope.version
    match event:
        case TierChanged():
            return replace(account, version=version, tier=event.tier)
        case AccountDisabled():
            return replace(account, version=version, disabled=True)
        case AccountEnabled():
            return replace(account, version=version, disabled=False)
        case _:
            return replace(account, version=version)
