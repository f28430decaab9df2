"""Facts of other services, as far as a test needs them."""

from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.events import DeploymentStarted


def deployment_started(agent_id: str) -> DeploymentStarted:
    """Return the fact that a deployment of this agent was begun."""
    return DeploymentStarted(
        agent_id=agent_id,
        deployment_version=1,
        tier="free",
        runtime_provider="cloudflare",
        artifact=Artifact(type=MODULES_TYPE, checksum="sha256:00", size_bytes=1),
        main_module_name="index.mjs",
        invoke_path="/invoke",
        compatibility_date="2026-01-01",
        key_version=1,
        key_generation=1,
    )
