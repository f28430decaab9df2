"""The rules: command + state → facts. Pure; what is not allowed is raised as a Problem.

Requests about a deleted agent never get here: it is not found.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict, replace
from webhost_contracts.artifacts import Artifact
from webhost_contracts.entitlements import Entitlements
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
from webhost_kit.errors import Conflict, InvalidRequest, LimitExceeded

from webhost_api.model import Agent, Deployment, DeploymentStatus, common_fields

CLOUDFLARE = "cloudflare"
AGENTCORE = "agentcore"

DELETED_MEANWHILE = DeploymentError(
    step="delete", message="The agent was deleted while its deploy was running."
)


class DescribeAgent(Struct, frozen=True, kw_only=True):
    """The fields that a user sets on an agent. None keeps a field; "" clears the description."""

    name: str | None = None
    description: str | None = None
    env_var_keys: tuple[str, ...] | None = None
    preferred_runtime_provider: str | None = None


class RequestDeployment(Struct, frozen=True, kw_only=True):
    """A user wants this stored artifact deployed; no provider means the agent's preferred one.

    The code reads `required_keys`, which must be set, and `optional_keys`.
    """

    deployment_id: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str = "/invoke"
    compatibility_date: str = "2026-01-01"
    required_keys: tuple[str, ...] = ()
    optional_keys: tuple[str, ...] = ()
    set_as_active: bool = True
    runtime_provider: str | None = None
    commit_hash: str | None = None


def create(command: DescribeAgent, existing: int, entitlements: Entitlements) -> list[Event]:
    """Decide to create an agent for a user who has `existing` ones. LIMIT_EXCEEDED at the limit."""
    _require_provider(command.preferred_runtime_provider, entitlements, "preferredRuntimeProvider")
    if entitlements.agents is not None and existing >= entitlements.agents:
        raise LimitExceeded(
            "Your plan does not include more agents.",
            details={
                "limitType": "agents",
                "current": existing,
                "limit": entitlements.agents,
                "suggestedAction": "upgrade",
            },
        )
    return [AgentCreated(**_stated(command))]


def update(agent: Agent, command: DescribeAgent, entitlements: Entitlements) -> list[Event]:
    """Decide on a change. Without a difference there is no fact."""
    _require_provider(command.preferred_runtime_provider, entitlements, "preferredRuntimeProvider")
    before = AgentUpdated(**common_fields(agent, AgentUpdated))
    after = replace(before, **_stated(command))
    return [] if after == before else [after]


def disable(agent: Agent) -> list[Event]:
    """Decide to refuse invocations."""
    return [] if agent.disabled_at_ms is not None else [AgentDisabled()]


def enable(agent: Agent) -> list[Event]:
    """Decide to accept invocations again."""
    return [] if agent.disabled_at_ms is None else [AgentEnabled()]


def delete(_agent: Agent) -> list[Event]:
    """Decide to delete; allowed in every state."""
    return [AgentDeleted()]


def request_deployment(
    agent: Agent, command: RequestDeployment, entitlements: Entitlements
) -> list[Event]:
    """Decide to deploy. CONFLICT while disabled or while a deploy runs."""
    _require_changeable(agent)
    _require_declared(agent, (*command.required_keys, *command.optional_keys))
    provider = command.runtime_provider or agent.preferred_runtime_provider or CLOUDFLARE
    _require_provider(provider, entitlements, "runtimeProvider")
    fields: dict[str, Any] = common_fields(command, DeploymentRequested) | {
        "deployment_version": agent.newest_deployment_version + 1,
        "runtime_provider": provider,
        "pointer_revision": agent.pointer_revision,
    }
    return [DeploymentRequested(**fields)]


def activate(agent: Agent, deployment: Deployment, reason: str | None) -> list[Event]:
    """Decide to point at a finished good deployment. No fact if it is active already.

    CONFLICT, retryable, while it lacks the agent's newest secrets: the deployer brings it up. One
    whose script is lost never has them.
    """
    _require_changeable(agent)
    if not deployment.is_kept:
        raise Conflict("Only a deployment that succeeded and is still kept can be activated.")
    if deployment.script_lost:
        raise Conflict("The deployment's script is gone at its provider; deploy again.")
    if agent.active_deployment_id == deployment.id:
        return []
    if deployment.secrets_version < agent.secrets_version:
        raise Conflict(
            "The deployment is being given the agent's newest secrets; try again in a few seconds.",
            retryable=True,
        )
    return [_pointed_at(agent, deployment, "activate", reason)]


def conclude_succeeded(agent: Agent, deployment_id: str, keep: int) -> list[Event]:
    """Decide what follows from a success: the end, the pointer, and what is retired.

    The pointer flips only if no other pointer decision was made since the request. The running
    deploys of a deleted agent have already failed. A deployment that has ended needs no decision.
    """
    deployment = agent.deployments.get(deployment_id)
    if deployment is None or deployment.status is not DeploymentStatus.DEPLOYING:
        return []
    if agent.deleted_at_ms is not None:
        return [_failed(deployment, DELETED_MEANWHILE)]
    events: list[Event] = [DeploymentEnded(deployment_id=deployment_id, outcome="succeeded")]
    active = agent.active_deployment_id
    if deployment.set_as_active and deployment.pointer_revision == agent.pointer_revision:
        events.append(_pointed_at(agent, deployment, "deploy", None))
        active = deployment_id
    good = [d for d in agent.deployments.values() if d.is_kept or d.id == deployment_id]
    return events + _retire(good, active, keep)


def conclude_failed(agent: Agent, deployment_id: str, error: DeploymentError) -> list[Event]:
    """Decide what follows from a failure: the end, and never anything about the pointer."""
    deployment = agent.deployments.get(deployment_id)
    if deployment is None or deployment.status is not DeploymentStatus.DEPLOYING:
        return []
    return [_failed(deployment, error)]


def _stated(command: DescribeAgent) -> dict[str, Any]:
    stated = {name: value for name, value in asdict(command).items() if value is not None}
    return stated | ({"description": None} if command.description == "" else {})


def _retire(good: Sequence[Deployment], active: str | None, keep: int) -> list[Event]:
    newest_first = sorted(good, key=lambda d: d.version, reverse=True)
    return [DeploymentRetired(deployment_id=d.id) for d in newest_first[keep:] if d.id != active]


def _pointed_at(
    agent: Agent,
    deployment: Deployment,
    cause: Literal["deploy", "activate"],
    reason: str | None,
) -> DeploymentActivated:
    return DeploymentActivated(
        deployment_id=deployment.id,
        pointer_revision=agent.pointer_revision + 1,
        cause=cause,
        previous_deployment_id=agent.active_deployment_id,
        reason=reason,
    )


def _failed(deployment: Deployment, error: DeploymentError) -> DeploymentEnded:
    return DeploymentEnded(deployment_id=deployment.id, outcome="failed", error=error)


def _require_changeable(agent: Agent) -> None:
    if agent.disabled_at_ms is not None:
        raise Conflict("The agent is disabled; enable it first.")
    if agent.running_deployment_id is not None:
        raise Conflict("A deploy of this agent is running; wait until it has ended.")


def _require_declared(agent: Agent, keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in agent.env_var_keys]
    if missing:
        raise InvalidRequest(
            "The bundle has keys that the agent does not declare; add them to its envVarKeys.",
            details={
                "issues": [
                    {"path": ["uploadId"], "message": f"The agent does not declare {key}."}
                    for key in missing
                ]
            },
        )


def _require_provider(provider: str | None, entitlements: Entitlements, field: str) -> None:
    if provider is None or provider == CLOUDFLARE:
        return
    if provider != AGENTCORE:
        raise InvalidRequest.at([field], f"Must be one of: {CLOUDFLARE}, {AGENTCORE}.")
    if not entitlements.agentcore_enabled:
        raise LimitExceeded(
            "Your plan does not include this runtime provider.",
            details={"limitType": "agentcoreEnabled", "suggestedAction": "upgrade"},
        )
    raise InvalidRequest.at([field], "This runtime provider is not available yet.")
