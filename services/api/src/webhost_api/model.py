"""What an agent and its deployments are, as a pure fold of facts.

The agent's own facts make the agent and its deployments; the deployer's facts about a deployment
add what became of it at the provider.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

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
    Event,
)


class AgentStatus(StrEnum):
    """What an agent is, in one word; derived, see `Agent.status`."""

    CREATED = "created"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    ERROR = "error"
    DISABLED = "disabled"
    DELETED = "deleted"


class DeploymentStatus(StrEnum):
    """What a deployment is, in one word."""

    DEPLOYING = "deploying"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FAILED = "failed"
    DELETED = "deleted"


GOOD = frozenset({DeploymentStatus.ACTIVE, DeploymentStatus.INACTIVE})


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One immutable version of an agent. Only status, provider reference, error and times change.

    `fact_version` is the version of the last fact of the deployer's that was folded in.
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
    commit_hash: str | None
    set_as_active: bool
    pointer_revision: int
    created_at_ms: int
    status: DeploymentStatus = DeploymentStatus.DEPLOYING
    retired: bool = False
    worker_name: str | None = None
    invoke_url: str | None = None
    error: DeploymentError | None = None
    deployed_at_ms: int | None = None
    finished_at_ms: int | None = None
    fact_version: int = 0

    @property
    def is_kept(self) -> bool:
        """Say whether it answers, and may be activated."""
        return self.status in GOOD and not self.retired


@dataclass(frozen=True, kw_only=True)
class Agent:
    """An agent as of its fact number `version`.

    `deployments` holds, by id, at least those that are kept and the one under way.
    `pointer_revision` counts the pointer decisions made so far.
    """

    id: str
    user_id: str
    version: int
    name: str
    description: str | None
    env_var_keys: tuple[str, ...]
    preferred_runtime_provider: str | None
    created_at_ms: int
    updated_at_ms: int
    active_deployment_id: str | None = None
    running_deployment_id: str | None = None
    pointer_revision: int = 0
    newest_deployment_version: int = 0
    last_deploy_failed: bool = False
    last_deployed_at_ms: int | None = None
    disabled_at_ms: int | None = None
    deleted_at_ms: int | None = None
    deployments: Mapping[str, Deployment] = field(default_factory=dict[str, Deployment])

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


def created(agent_id: str, user_id: str, event: AgentCreated, at_ms: int) -> Agent:
    """Return the agent that its first fact made."""
    return Agent(
        id=agent_id,
        user_id=user_id,
        version=1,
        name=event.name,
        description=event.description,
        env_var_keys=event.env_var_keys,
        preferred_runtime_provider=event.preferred_runtime_provider,
        created_at_ms=at_ms,
        updated_at_ms=at_ms,
    )


def evolve(agent: Agent, event: Event, at_ms: int) -> Agent:
    """Return the agent after its next fact. Raises TypeError for what is no fact of an agent."""
    agent = replace(agent, version=agent.version + 1, updated_at_ms=at_ms)
    match event:
        case AgentUpdated():
            return replace(
                agent,
                name=event.name,
                description=event.description,
                env_var_keys=event.env_var_keys,
                preferred_runtime_provider=event.preferred_runtime_provider,
            )
        case AgentDisabled():
            return replace(agent, disabled_at_ms=at_ms)
        case AgentEnabled():
            return replace(agent, disabled_at_ms=None)
        case AgentDeleted():
            return replace(_without_pointer(agent), deleted_at_ms=at_ms)
        case DeploymentRequested():
            return _requested(agent, event, at_ms)
        case DeploymentEnded():
            return _ended(agent, event, at_ms)
        case DeploymentActivated():
            return _activated(agent, event)
        case DeploymentRetired():
            return with_deployment(
                agent, replace(agent.deployments[event.deployment_id], retired=True)
            )
        case _:
            raise TypeError(f"not a fact of an agent: {event.type_name()}")


def reached(deployment: Deployment, worker_name: str, invoke_url: str) -> Deployment:
    """Return the deployment after the deployer said where it answers."""
    return replace(deployment, worker_name=worker_name, invoke_url=invoke_url)


def torn_down(deployment: Deployment) -> Deployment:
    """Return the deployment after the deployer removed it. A failed one stays failed."""
    if deployment.status not in GOOD:
        return deployment
    return replace(deployment, status=DeploymentStatus.DELETED)


def with_deployment(agent: Agent, deployment: Deployment) -> Agent:
    """Return the agent with this deployment as it is now."""
    return replace(agent, deployments={**agent.deployments, deployment.id: deployment})


def _requested(agent: Agent, event: DeploymentRequested, at_ms: int) -> Agent:
    deployment = Deployment(
        id=event.deployment_id,
        user_id=agent.user_id,
        agent_id=agent.id,
        version=event.deployment_version,
        runtime_provider=event.runtime_provider,
        artifact=event.artifact,
        main_module_name=event.main_module_name,
        invoke_path=event.invoke_path,
        compatibility_date=event.compatibility_date,
        commit_hash=event.commit_hash,
        set_as_active=event.set_as_active,
        pointer_revision=event.pointer_revision,
        created_at_ms=at_ms,
    )
    agent = replace(
        agent,
        newest_deployment_version=deployment.version,
        running_deployment_id=deployment.id,
    )
    return with_deployment(agent, deployment)


def _ended(agent: Agent, event: DeploymentEnded, at_ms: int) -> Agent:
    deployment = agent.deployments[event.deployment_id]
    agent = replace(agent, running_deployment_id=None)
    if event.outcome == "failed":
        failed = replace(
            deployment,
            status=DeploymentStatus.FAILED,
            error=event.error,
            finished_at_ms=at_ms,
        )
        return with_deployment(replace(agent, last_deploy_failed=True), failed)
    good = replace(
        deployment,
        status=DeploymentStatus.INACTIVE,
        deployed_at_ms=at_ms,
        finished_at_ms=at_ms,
    )
    return with_deployment(
        replace(agent, last_deploy_failed=False, last_deployed_at_ms=at_ms), good
    )


def _activated(agent: Agent, event: DeploymentActivated) -> Agent:
    agent = _without_pointer(agent)
    deployment = agent.deployments[event.deployment_id]
    return with_deployment(
        replace(
            agent,
            active_deployment_id=deployment.id,
            pointer_revision=event.pointer_revision,
        ),
        replace(deployment, status=DeploymentStatus.ACTIVE),
    )


def _without_pointer(agent: Agent) -> Agent:
    before = agent.deployments.get(agent.active_deployment_id or "")
    agent = replace(agent, active_deployment_id=None)
    if before is None:
        return agent
    return with_deployment(agent, replace(before, status=DeploymentStatus.INACTIVE))
