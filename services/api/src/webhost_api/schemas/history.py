"""The audit, and the log of a deployment."""

from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field
from webhost_contracts.errors import DeploymentError

from webhost_api.schemas.base import OptionalInt, OptionalText, Schema, is_absent
from webhost_api.schemas.deployments import DeploymentErrorSchema, deployment_error


class AuditEntry(Schema):
    """One thing that happened, as a fact: what, when, and whose doing it was.

    `actor` is `user:` and the user's id, `key:` and the API key's, `operator:` and who that is,
    `source:` and the back end that delegates, or `service:` and its name.
    """

    id: str
    at_ms: int
    action: str
    actor: str
    agent_id: OptionalText = None
    deployment_id: OptionalText = None
    request_id: OptionalText = None
    trace_id: OptionalText = None
    details: dict[str, Any]


class AuditResponse(Schema):
    """Audit entries, newest first; `nextCursor` leads on."""

    entries: list[AuditEntry]
    next_cursor: str | None


def _error(value: object) -> object:
    return deployment_error(
        msgspec.convert(value, DeploymentError) if isinstance(value, dict) else value
    )


class LogLine(Schema):
    """One line of a deployment's log; `type` is that of the event.

    That of an attempt at a step has `step`, `attempt`, when it started, its `error` if it failed,
    and when it is tried again, if it is; it ended at `atMs`.
    """

    id: str
    at_ms: int
    type: str
    step: OptionalText = None
    attempt: OptionalInt = None
    started_at_ms: OptionalInt = None
    outcome: OptionalText = None
    error: Annotated[
        DeploymentErrorSchema | None, BeforeValidator(_error), Field(exclude_if=is_absent)
    ] = None
    retry_at_ms: OptionalInt = None


class LogResponse(Schema):
    """A deployment's log lines, newest first; `nextCursor` leads on."""

    lines: list[LogLine]
    next_cursor: str | None
