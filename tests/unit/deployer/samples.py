"""A deploy command, and a deployment that work has begun on."""

from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_contracts.commands import Deploy
from webhost_deployer.decisions import begin
from webhost_deployer.model import Deployment, evolve

AGENT = "agt_01kb000000000000000000000a"
DEPLOYMENT = "dep_01kb000000000000000000000d"
START_MS = 1_000_000

ORDER = Deploy(
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


def begun() -> Deployment:
    """The deployment as its first fact leaves it."""
    (started,) = begin(ORDER, key_version=2)
    return evolve(Deployment(command=ORDER), started, START_MS)
