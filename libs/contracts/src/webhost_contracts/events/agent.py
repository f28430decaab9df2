"""Facts about an agent, its pointer and the decisions to deploy, stated by the api."""

from typing import Literal

from webhost_contracts.artifacts import Artifact
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events.base import Event


class AgentDescribed(Event, frozen=True, kw_only=True):
    """The fields of an agent that its user sets."""

    name: str
    description: str | None = None
    env_var_keys: tuple[str, ...] = ()
    preferred_runtime_provider: str | None = None


class AgentCreated(AgentDescribed, frozen=True, kw_only=True, tag="agent.created.v1"):
    """A user created an agent."""


class AgentUpdated(AgentDescribed, frozen=True, kw_only=True, tag="agent.updated.v1"):
    """A user changed an agent; all fields, as they are after the change."""


class AgentDisabled(Event, frozen=True, kw_only=True, tag="agent.disabled.v1"):
    """Invocations of the agent are refused from now on."""


class AgentEnabled(Event, frozen=True, kw_only=True, tag="agent.enabled.v1"):
    """The agent may be invoked again."""


class AgentDeleted(Event, frozen=True, kw_only=True, tag="agent.deleted.v1"):
    """The agent was deleted, for good; a tombstone remains."""


class DeploymentRequested(Event, frozen=True, kw_only=True, tag="agent.deployment_requested.v1"):
    """A user asked for a new deployment, and the api agreed.

    `pointer_revision` is the number of pointer decisions made before it: the pointer flips at
    success only where no other was made since.
    """

    deployment_id: str
    deployment_version: int
    runtime_provider: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str
    set_as_active: bool
    pointer_revision: int
    compatibility_date: str
    required_keys: tuple[str, ...] = ()
    commit_hash: str | None = None


class DeploymentEnded(Event, frozen=True, kw_only=True, tag="agent.deployment_ended.v1"):
    """The saga of a requested deployment has ended and the api has recorded the result."""

    deployment_id: str
    outcome: Literal["succeeded", "failed"]
    error: DeploymentError | None = None


class DeploymentActivated(Event, frozen=True, kw_only=True, tag="agent.deployment_activated.v1"):
    """The pointer was set: invocations go to this deployment and nowhere else."""

    deployment_id: str
    pointer_revision: int
    cause: Literal["deploy", "activate"]
    previous_deployment_id: str | None = None
    reason: str | None = None


class DeploymentRetired(Event, frozen=True, kw_only=True, tag="agent.deployment_retired.v1"):
    """A good deployment is no longer among those kept; it can no longer be activated."""

    deployment_id: str
