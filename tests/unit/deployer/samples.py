"""A deploy command, and a deployment that work has begun on."""

from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.commands import Deploy
from webhost_contracts.events import Envelope
from webhost_contracts.events.base import Event, data_of
from webhost_deployer.decisions import begin
from webhost_deployer.model import Deployment, evolve

AGENT = "agt_01kb000000000000000000000a"
DEPLOYMENT = "dep_01kb000000000000000000000d"
START_MS = 1_000_000

COMMAND = Deploy(
    command_id="cmd_1",
    causation_id="evt_1",
    user_id="usr_1",
    agent_id=AGENT,
    deployment_id=DEPLOYMENT,
    deployment_version=3,
    tier="free",
    runtime_provider="cloudflare",
    artifact=Artifact(type=MODULES_TYPE, checksum="sha256:00", size_bytes=1),
    main_module_name="index.mjs",
    invoke_path="/invoke",
    compatibility_date="2026-01-01",
)


def fact(event: Event, version: int, at_ms: int = START_MS) -> Envelope:
    """Return the envelope of a fact about the deployment."""
    return Envelope(
        event_id=f"evt_{version}",
        aggregate_id=DEPLOYMENT,
        version=version,
        user_id="usr_1",
        occurred_at_ms=at_ms,
        actor="service:deployer",
        causation_id="evt_1",
        data=data_of(event),
    )


def evolved(state: Deployment | None, event: Event, at_ms: int = START_MS) -> Deployment:
    """Return what the next fact makes of the deployment."""
    return evolve(state, fact(event, 1 if state is None else state.version + 1, at_ms), event)


def begun() -> Deployment:
    """Return the deployment as its first fact leaves it."""
    (started,) = begin(COMMAND, key_version=2, namespace=None)
    return evolved(None, started)
