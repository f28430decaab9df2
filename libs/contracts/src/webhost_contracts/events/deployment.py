"""Facts about a deployment's life at its runtime provider, stated by the deployer."""

from webhost_contracts.errors import DeploymentError
from webhost_contracts.events.base import Event


class DeploymentStarted(Event, frozen=True, kw_only=True, tag="deployment.started.v1"):
    """Work began. The telemetry key's version and generation are fixed from here on."""

    agent_id: str
    deployment_version: int
    runtime_provider: str
    key_version: int
    key_generation: int


class DeploymentStepSucceeded(Event, frozen=True, kw_only=True, tag="deployment.step_succeeded.v1"):
    """One step of the saga is done and need not be done again."""

    agent_id: str
    step: str
    attempt: int
    started_at_ms: int


class DeploymentStepFailed(Event, frozen=True, kw_only=True, tag="deployment.step_failed.v1"):
    """One try of a step failed; it is tried again at `retry_at_ms`, or not at all where absent."""

    agent_id: str
    step: str
    attempt: int
    started_at_ms: int
    error: DeploymentError
    retry_at_ms: int | None = None


class DeploymentSucceeded(Event, frozen=True, kw_only=True, tag="deployment.succeeded.v1"):
    """The deployment answers at `invoke_url`."""

    agent_id: str
    worker_name: str
    invoke_url: str


class DeploymentFailed(Event, frozen=True, kw_only=True, tag="deployment.failed.v1"):
    """The deployment will never answer, and nothing of it is left at the provider."""

    agent_id: str
    error: DeploymentError


class DeploymentTornDown(Event, frozen=True, kw_only=True, tag="deployment.torn_down.v1"):
    """Nothing of a deployment that once answered is left at the provider."""

    agent_id: str
