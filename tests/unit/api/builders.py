"""Given these events: an agent folded from its facts."""

from collections.abc import Sequence
from typing import Any

from webhost_api import model
from webhost_api.decisions import RequestDeployment
from webhost_api.model import Agent
from webhost_contracts.artifacts import Artifact
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentRequested,
    Event,
)

from tests.support.facts import envelope

TIERS = load_tiers()
FREE = TIERS["free"]
ARTIFACT = Artifact(type="modules", checksum="sha256:ab", size_bytes=2)
ERROR = DeploymentError(step="upload", message="no")

CREATED = AgentCreated(name="mine", description="what it is", env_var_keys=("A",))
DISABLED = AgentDisabled()
DELETED = AgentDeleted()


def requested(number: int, *, revision: int = 0, set_as_active: bool = True) -> DeploymentRequested:
    return DeploymentRequested(
        deployment_id=f"dep_{number}",
        deployment_version=number,
        runtime_provider="cloudflare",
        artifact=ARTIFACT,
        main_module_name="agent.mjs",
        invoke_path="/invoke",
        set_as_active=set_as_active,
        pointer_revision=revision,
        compatibility_date="2026-01-01",
    )


def succeeded(number: int) -> DeploymentEnded:
    return DeploymentEnded(deployment_id=f"dep_{number}", outcome="succeeded")


def failed(number: int) -> DeploymentEnded:
    return DeploymentEnded(deployment_id=f"dep_{number}", outcome="failed", error=ERROR)


def activated(
    number: int, revision: int, previous: int | None = None, cause: str = "deploy"
) -> DeploymentActivated:
    return DeploymentActivated(
        deployment_id=f"dep_{number}",
        pointer_revision=revision,
        cause="deploy" if cause == "deploy" else "activate",
        previous_deployment_id=None if previous is None else f"dep_{previous}",
    )


def agent(*events: Event) -> Agent:
    """The agent after CREATED and these facts, one per millisecond from 1,000 on."""
    it = Agent(id="agt_1", user_id="usr_1")
    for number, event in enumerate((CREATED, *events)):
        stated = envelope(it.user_id, it.id, event, version=number + 1, at_ms=1000 + number)
        it = model.evolve(it, stated, event)
    return it


def live(count: int) -> Sequence[Event]:
    """The facts of this many deploys that succeeded one after the other."""
    facts: list[Event] = []
    for number in range(1, count + 1):
        facts += [
            requested(number, revision=number - 1),
            succeeded(number),
            activated(number, number, number - 1 or None),
        ]
    return facts


def wish(number: int, **fields: Any) -> RequestDeployment:
    """A user's request to deploy."""
    return RequestDeployment(
        deployment_id=f"dep_{number}",
        artifact=ARTIFACT,
        main_module_name="agent.mjs",
        **fields,
    )
