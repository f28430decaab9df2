"""What the deployer states when a command reaches it. Pure."""

from webhost_contracts.commands import Deploy
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentTeardownScheduled,
    TeardownFinished,
    TeardownStarted,
)
from webhost_contracts.events.base import Event

from webhost_deployer.model import Deployment

KEY_GENERATION = 1
"""The generation of a new deployment's telemetry key."""

AGENT_DELETED = "The agent was deleted."
NOT_HANDLED = "The deploy command could not be handled."


def begin(
    command: Deploy, key_version: int, namespace: str | None, *, agent_deleted: bool = False
) -> list[Event]:
    """Start a deployment; one of a deleted agent fails at once."""
    started = DeploymentStarted(
        agent_id=command.agent_id,
        deployment_version=command.deployment_version,
        tier=command.tier,
        runtime_provider=command.runtime_provider,
        artifact=command.artifact,
        main_module_name=command.main_module_name,
        invoke_path=command.invoke_path,
        compatibility_date=command.compatibility_date,
        required_keys=command.required_keys,
        key_version=key_version,
        key_generation=KEY_GENERATION,
        namespace=namespace,
    )
    return [started, refuse(command.agent_id, AGENT_DELETED)] if agent_deleted else [started]


def refuse(agent_id: str, message: str) -> DeploymentFailed:
    """Fail a deployment before any of its steps was tried."""
    return DeploymentFailed(agent_id=agent_id, error=DeploymentError(step="start", message=message))


def begin_teardown(agent_id: str, *, deployed: bool) -> list[Event]:
    """Start to remove what a deleted agent has. One that never had a deployment has no script, and
    no session either, since only a deployment makes sessions: nothing is left to be removed.
    """
    started = TeardownStarted(agent_id=agent_id)
    return [started] if deployed else [started, TeardownFinished(agent_id=agent_id)]


def schedule_teardown(state: Deployment, not_before_ms: int) -> list[Event]:
    """Schedule the deployment's removal; an earlier date stated before still applies."""
    earlier = state.tear_down_at_ms
    if state.ended or (earlier is not None and earlier <= not_before_ms):
        return []
    return [DeploymentTeardownScheduled(agent_id=state.agent_id, not_before_ms=not_before_ms)]
