"""Facts about a deployment's life at its runtime provider, stated by the deployer."""

from webhost_contracts import subjects
from webhost_contracts.artifacts import Artifact
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events.base import Event


class DeployerEvent(Event, frozen=True, kw_only=True):
    """A fact of the deployer's: all of one agent's share a subject, whatever the aggregate."""

    agent_id: str

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the subject of all that the deployer states about the agent."""
        return subjects.event(user_id, "deployment", self.agent_id)


class DeploymentStarted(DeployerEvent, frozen=True, kw_only=True, tag="deployment.started.v1"):
    """Work began. This holds all that it needs; the telemetry key's version and generation are
    fixed until it is revoked, and where the deployment is at its provider (at Cloudflare a dispatch
    namespace, or none) for good.
    """

    deployment_version: int
    tier: str
    runtime_provider: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str
    compatibility_date: str
    required_keys: tuple[str, ...] = ()
    key_version: int
    key_generation: int
    namespace: str | None = None


class DeploymentStepSucceeded(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.step_succeeded.v1"
):
    """One step of the saga is done and need not be done again.

    `secrets_version` is that of the secrets which the deployment has then, `front_keys` are the ids
    of the public keys that its front verifies calls with, where it has a front of its own.
    """

    step: str
    attempt: int
    started_at_ms: int
    secrets_version: int = 0
    front_keys: tuple[str, ...] = ()


class DeploymentStepFailed(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.step_failed.v1"
):
    """One attempt at a step failed; it is retried at `retry_at_ms`, or not at all if absent."""

    step: str
    attempt: int
    started_at_ms: int
    error: DeploymentError
    retry_at_ms: int | None = None


class DeploymentSucceeded(DeployerEvent, frozen=True, kw_only=True, tag="deployment.succeeded.v1"):
    """The deployment answers at `invoke_url`, and has its agent's secrets of `secrets_version`."""

    worker_name: str
    invoke_url: str
    secrets_version: int = 0


class DeploymentSecretsApplied(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.secrets_applied.v1"
):
    """A deployment that answers was given its agent's secrets of `secrets_version`."""

    secrets_version: int


class DeploymentFrontUpdated(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.front_updated.v1"
):
    """The front of a deployment that answers has now the public keys of these ids."""

    front_keys: tuple[str, ...]


class DeploymentTelemetryKeyRevoked(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.telemetry_key_revoked.v1"
):
    """The deployment's telemetry key is of this master key's version and generation from now on;
    the one before is good for nothing. `front_keys` is empty where its front, if it has one of its
    own, has yet to be given the new one.
    """

    key_version: int
    key_generation: int
    operator: str
    front_keys: tuple[str, ...] = ()


class DeploymentScriptLost(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.script_lost.v1"
):
    """The script of a deployment that answered is no longer at its provider: it answers no more."""


class DeploymentFailed(DeployerEvent, frozen=True, kw_only=True, tag="deployment.failed.v1"):
    """The deployment will never answer. Its route and script were removed before this was stated,
    or, where that failed for eight minutes, are left to reconciliation.
    """

    error: DeploymentError


class DeploymentTeardownScheduled(
    DeployerEvent, frozen=True, kw_only=True, tag="deployment.teardown_scheduled.v1"
):
    """The deployment is to be removed from its provider, not before `not_before_ms`."""

    not_before_ms: int


class DeploymentTornDown(DeployerEvent, frozen=True, kw_only=True, tag="deployment.torn_down.v1"):
    """Nothing of a deployment that once answered is left at the provider."""
