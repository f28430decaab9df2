"""What an agent and its deployments are, as a pure fold of facts.

The agent and its deployments are folded from the agent's own facts; the deployer's facts add what
happened to them at the provider. Both are stored as documents, so a new field needs a default.
"""

from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace
from webhost_contracts.artifacts import Artifact
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    AgentUpdated,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentRequested,
    DeploymentRetired,
    Envelope,
    Event,
)
from webhost_contracts.invoke import PROTOCOL


class AgentStatus(StrEnum):
    """An agent's state in one word; derived, see `Agent.status`."""

    CREATED = "created"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    ERROR = "error"
    DISABLED = "disabled"
    DELETED = "deleted"


class DeploymentStatus(StrEnum):
    """A deployment's state in one word."""

    DEPLOYING = "deploying"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FAILED = "failed"
    DELETED = "deleted"


GOOD = frozenset({DeploymentStatus.ACTIVE, DeploymentStatus.INACTIVE})
GONE = frozenset({DeploymentStatus.FAILED, DeploymentStatus.DELETED})
"""No code of these runs, and none ever will."""


class ProviderRef(Struct, frozen=True, kw_only=True):
    """Where a deployment lives at its runtime provider."""

    worker_name: str
    invoke_url: str


class Deployment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One immutable version of an agent. Only status, provider reference, error and times change.

    `requested_in` and `retired_in` are the versions of the agent's facts that did this;
    `fact_version` is the version of the last fact of the deployer's that was folded in, and
    `secrets_version` that of its agent's secrets which its Worker has. With `script_lost` it is no
    longer at its provider.
    """

    id: str
    user_id: str
    agent_id: str
    version: int
    runtime_provider: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str
    compatibility_date: str
    commit_hash: str | None = None
    set_as_active: bool
    pointer_revision: int
    created_at_ms: int
    requested_in: int
    retired_in: int | None = None
    status: DeploymentStatus = DeploymentStatus.DEPLOYING
    provider_ref: ProviderRef | None = None
    error: DeploymentError | None = None
    deployed_at_ms: int | None = None
    finished_at_ms: int | None = None
    teardown_scheduled: bool = False
    fact_version: int = 0
    secrets_version: int = 0
    script_lost: bool = False

    @property
    def is_kept(self) -> bool:
        """Say whether it answers, and may be activated."""
        return self.status in GOOD and self.retired_in is None

    @property
    def unstarted_version(self) -> int | None:
        """Return the version of the agent's fact whose command the deployer has yet to start."""
        if self.status is DeploymentStatus.DEPLOYING:
            return self.requested_in if self.fact_version == 0 else None
        return self.retired_in if self.status in GOOD and not self.teardown_scheduled else None

    @property
    def protocol(self) -> str:
        """Return the protocol that its Worker speaks."""
        return PROTOCOL

    @property
    def error_message(self) -> str | None:
        """Return why it failed, for display."""
        return None if self.error is None else self.error.message

    @property
    def deployed_by_user_id(self) -> str:
        """Return who deployed it: an agent has one user."""
        return self.user_id


class Agent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent as of its fact number `version`; 0 before the first.

    `deployments` holds, by id, at least those that are kept and the running one.
    `pointer_revision` counts the pointer decisions made so far; `secrets_version` is the newest one
    known of its secrets, which are the deployer's.
    """

    id: str
    user_id: str
    version: int = 0
    name: str = ""
    description: str | None = None
    env_var_keys: tuple[str, ...] = ()
    preferred_runtime_provider: str | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0
    active_deployment_id: str | None = None
    running_deployment_id: str | None = None
    pointer_revision: int = 0
    newest_deployment_version: int = 0
    last_deploy_failed: bool = False
    last_deployed_at_ms: int | None = None
    disabled_at_ms: int | None = None
    deleted_at_ms: int | None = None
    deleted_in: int | None = None
    teardown_started: bool = False
    secrets_version: int = 0
    deployments: dict[str, Deployment] = {}

    @property
    def status(self) -> AgentStatus:
        """Return the one word for the agent's state."""
        if self.deleted_at_ms is not None:
            return AgentStatus.DELETED
        if self.disabled_at_ms is not None:
            return AgentStatus.DISABLED
        if self.running_deployment_id is not None:
            return AgentStatus.DEPLOYING
        if self.active_deployment_id is not None:
            return AgentStatus.ACTIVE
        return AgentStatus.ERROR if self.last_deploy_failed else AgentStatus.CREATED

    @property
    def unstarted_version(self) -> int | None:
        """Return the version of the fact whose command the deployer has yet to start."""
        return None if self.teardown_started else self.deleted_in


def evolve(agent: Agent, envelope: Envelope, event: Event) -> Agent:
    """Return the agent after its next fact. Raises TypeError for any other fact."""
    at_ms = envelope.occurred_at_ms
    agent = replace(agent, version=agent.version + 1, updated_at_ms=at_ms)
    match event:
        case AgentCreated() if agent.version == 1:
            return replace(agent, created_at_ms=at_ms, **asdict(event))
        case AgentUpdated():
            return replace(agent, **asdict(event))
        case AgentDisabled():
            return replace(agent, disabled_at_ms=at_ms)
        case AgentEnabled():
            return replace(agent, disabled_at_ms=None)
        case AgentDeleted():
            return replace(_without_pointer(agent), deleted_at_ms=at_ms, deleted_in=agent.version)
        case DeploymentRequested():
            return _requested(agent, event, at_ms)
        case DeploymentEnded():
            return _ended(agent, event, at_ms)
        case DeploymentActivated():
            return _activated(agent, event)
        case DeploymentRetired():
            retired = replace(agent.deployments[event.deployment_id], retired_in=agent.version)
            return with_deployment(agent, retired)
        case _:
            raise TypeError(f"not the next fact of an agent: {event.type_name()}")


def torn_down(deployment: Deployment) -> Deployment:
    """Return the deployment after the deployer removed it. A failed one stays failed."""
    if deployment.status not in GOOD:
        return deployment
    return replace(deployment, status=DeploymentStatus.DELETED)


def with_secrets(agent: Agent, version: int) -> Agent:
    """Return the agent where its secrets are known to have this version, or a newer one."""
    return replace(agent, secrets_version=max(agent.secrets_version, version))


def with_deployment(agent: Agent, deployment: Deployment) -> Agent:
    """Return the agent with this deployment as it is now."""
    return replace(agent, deployments={**agent.deployments, deployment.id: deployment})


def common_fields(source: Struct, kind: type[Struct]) -> dict[str, Any]:
    """Return the fields of `source` that `kind` has too, by name."""
    return {name: value for name, value in asdict(source).items() if name in kind.__struct_fields__}


def _requested(agent: Agent, event: DeploymentRequested, at_ms: int) -> Agent:
    deployment = Deployment(
        id=event.deployment_id,
        user_id=agent.user_id,
        agent_id=agent.id,
        version=event.deployment_version,
        created_at_ms=at_ms,
        requested_in=agent.version,
        **common_fields(event, Deployment),
    )
    agent = replace(
        agent,
        newest_deployment_version=deployment.version,
        running_deployment_id=deployment.id,
    )
    return with_deployment(agent, deployment)


def _ended(agent: Agent, event: DeploymentEnded, at_ms: int) -> Agent:
    deployment = replace(agent.deployments[event.deployment_id], finished_at_ms=at_ms)
    agent = replace(agent, running_deployment_id=None, last_deploy_failed=event.outcome == "failed")
    if event.outcome == "failed":
        failed = replace(deployment, status=DeploymentStatus.FAILED, error=event.error)
        return with_deployment(agent, failed)
    good = replace(deployment, status=DeploymentStatus.INACTIVE, deployed_at_ms=at_ms)
    return with_deployment(replace(agent, last_deployed_at_ms=at_ms), good)


def _activated(agent: Agent, event: DeploymentActivated) -> Agent:
    agent = replace(
        _without_pointer(agent),
        active_deployment_id=event.deployment_id,
        pointer_revision=event.pointer_revision,
    )
    deployment = agent.deployments[event.deployment_id]
    return with_deployment(agent, replace(deployment, status=DeploymentStatus.ACTIVE))


def _without_pointer(agent: Agent) -> Agent:
    before = agent.deployments.get(agent.active_deployment_id or "")
    agent = replace(agent, active_deployment_id=None)
    if before is None:
        return agent
    return with_deployment(agent, replace(before, status=DeploymentStatus.INACTIVE))
