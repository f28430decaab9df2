"""Pure: the commands to the deployer, each made from the fact that causes it.

The same fact gives the same command with the same id, so a command can be sent again: handlers
recognise it.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from webhost_contracts import ids, subjects
from webhost_contracts.commands import (
    DEPLOY,
    TEAR_DOWN,
    TEAR_DOWN_AGENT,
    Command,
    Deploy,
    TearDown,
    TearDownAgent,
)
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_contracts.events import (
    AgentDeleted,
    DeploymentRequested,
    DeploymentRetired,
    Envelope,
    Event,
)
from webhost_contracts.events.base import by_name

from webhost_api.model import common_fields

CAUSES = by_name(DeploymentRequested, DeploymentRetired, AgentDeleted)
"""The facts that a command follows from."""

TEARDOWN_MARGIN_MS = 10_000
"""Added to the longest call: how long the last gateway may take to learn of a new pointer."""

_VERBS: dict[type[Command], str] = {
    Deploy: DEPLOY,
    TearDown: TEAR_DOWN,
    TearDownAgent: TEAR_DOWN_AGENT,
}


@dataclass(frozen=True)
class Commands:
    """Makes commands. A retired deployment is torn down when its longest call has ended."""

    longest_call_ms: int

    def caused_by(
        self, cause: Envelope, event: Event, *, tier: str = DEFAULT_TIER
    ) -> Command | None:
        """Return the command that follows from a fact about an agent, None where none does.

        `tier` is the user's, for a deploy.
        """
        carried: dict[str, Any] = {
            "command_id": _id_after(cause),
            "causation_id": cause.event_id,
            "user_id": cause.user_id,
            "agent_id": cause.aggregate_id,
            "request_id": cause.request_id,
            "traceparent": cause.traceparent,
        }
        match event:
            case DeploymentRequested():
                return Deploy(**carried, tier=tier, **common_fields(event, Deploy))
            case DeploymentRetired():
                return TearDown(
                    **carried,
                    deployment_id=event.deployment_id,
                    not_before_ms=cause.occurred_at_ms + self.longest_call_ms + TEARDOWN_MARGIN_MS,
                )
            case AgentDeleted():
                return TearDownAgent(**carried)
            case _:
                return None


def subject_of(command: Command) -> str:
    """Return where a command is sent."""
    return subjects.command("deployer", _VERBS[type(command)], command.agent_id)


def _id_after(cause: Envelope) -> str:
    entropy = hashlib.sha256(cause.event_id.encode()).digest()[: ids.ENTROPY_BYTES]
    return ids.new_id(ids.COMMAND, cause.occurred_at_ms, entropy)
