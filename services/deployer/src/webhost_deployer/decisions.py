"""What the deployer states when it is told to do something. Pure."""

from webhost_contracts.commands import Deploy
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import DeploymentFailed, DeploymentStarted
from webhost_contracts.events.base import Event

KEY_GENERATION = 1
"""The generation of a new deployment's telemetry key."""

AGENT_DELETED = "The agent was deleted."


def begin(command: Deploy, key_version: int, refusal: str | None = None) -> list[Event]:
    """Take a deployment on, or, for the reason in `refusal`, fail it at once."""
    events: list[Event] = [
        DeploymentStarted(
            agent_id=command.agent_id,
            deployment_version=command.deployment_version,
            runtime_provider=command.runtime_provider,
            key_version=key_version,
            key_generation=KEY_GENERATION,
        )
    ]
    if refusal is not None:
        error = DeploymentError(step="start", message=refusal)
        events.append(DeploymentFailed(agent_id=command.agent_id, error=error))
    return events
