"""What the api asks the deployer to do, on the COMMANDS stream.

A command may arrive twice: handlers find out by the deployment or agent that it is about, and
answer with facts.
"""

from webhost_contracts.artifacts import Artifact
from webhost_contracts.wire import Wire


class Command(Wire, frozen=True, kw_only=True, tag_field="type"):
    """What all commands carry. `causation_id` is the event that caused the command."""

    command_id: str
    causation_id: str
    user_id: str
    agent_id: str
    request_id: str | None = None
    traceparent: str | None = None

    @classmethod
    def type_name(cls) -> str:
        """Return the stored name of this type."""
        tag = cls.__struct_config__.tag
        if not isinstance(tag, str):
            raise TypeError(f"{cls.__name__} has no tag")
        return tag


class Deploy(Command, frozen=True, kw_only=True, tag="deployment.deploy.v1"):
    """Put one deployment on its runtime provider."""

    deployment_id: str
    deployment_version: int
    tier: str
    runtime_provider: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str
    compatibility_date: str


class TearDown(Command, frozen=True, kw_only=True, tag="deployment.tear_down.v1"):
    """Remove a retired deployment from its provider, not before `not_before_ms`."""

    deployment_id: str
    not_before_ms: int


class TearDownAgent(Command, frozen=True, kw_only=True, tag="agent.tear_down.v1"):
    """Stop all work on a deleted agent, remove all of its deployments and purge its sessions."""


DEPLOY = "deploy"
TEAR_DOWN = "tear-down"
TEAR_DOWN_AGENT = "tear-down-agent"
COMMAND_TYPES: tuple[type[Command], ...] = (Deploy, TearDown, TearDownAgent)
