"""What the api asks the deployer to do, on the COMMANDS stream.

A command may arrive twice, and is sent again until its effect is seen: handlers recognise a repeat
by its deployment or agent, and respond with facts. The headers also name the user, the agent and
the deployment, so that even an unreadable command can be answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from webhost_contracts.artifacts import Artifact
from webhost_contracts.subjects import TRACE_HEADER, TYPE_HEADER
from webhost_contracts.wire import Wire

COMMAND_HEADER = "Webhost-Command-Id"
USER_HEADER = "Webhost-User-Id"
AGENT_HEADER = "Webhost-Agent-Id"
DEPLOYMENT_HEADER = "Webhost-Deployment-Id"
REQUEST_HEADER = "Webhost-Request-Id"


@dataclass(frozen=True)
class CommandIds:
    """The ids in a command's headers; None for those that are missing."""

    command_id: str | None
    user_id: str | None
    agent_id: str | None
    deployment_id: str | None
    request_id: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "CommandIds":
        """Read a message's headers."""
        return cls(
            headers.get(COMMAND_HEADER),
            headers.get(USER_HEADER),
            headers.get(AGENT_HEADER),
            headers.get(DEPLOYMENT_HEADER),
            headers.get(REQUEST_HEADER),
        )


class Command(Wire, frozen=True, kw_only=True, tag_field="type"):
    """The fields of every command. `causation_id` is the event that caused the command."""

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

    def headers(self) -> dict[str, str]:
        """Return the headers of the command's message."""
        named = {
            TYPE_HEADER: self.type_name(),
            COMMAND_HEADER: self.command_id,
            USER_HEADER: self.user_id,
            AGENT_HEADER: self.agent_id,
            DEPLOYMENT_HEADER: getattr(self, "deployment_id", None),
            REQUEST_HEADER: self.request_id,
            TRACE_HEADER: self.traceparent,
        }
        return {name: value for name, value in named.items() if value is not None}


class Deploy(Command, frozen=True, kw_only=True, tag="deployment.deploy.v1"):
    """Put one deployment on its runtime provider.

    `required_keys` are the secrets without which it must not be deployed.
    """

    deployment_id: str
    deployment_version: int
    tier: str
    runtime_provider: str
    artifact: Artifact
    main_module_name: str
    invoke_path: str
    compatibility_date: str
    required_keys: tuple[str, ...] = ()


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
