"""The gateway's own record of a call, on the USAGE stream."""

from typing import Literal

from webhost_contracts.events.base import UsageFact


class InvocationFinished(UsageFact, frozen=True, kw_only=True, tag="invocation.finished.v1"):
    """An admitted call ended. It counts as one request, whatever the runtime answered.

    The aggregate is the invocation. `wall_ms` is absent if the gateway died during the call
    (`outcome` is then `unknown`). `key_id` is the API key that made it, if one did. It holds no
    content of the call.
    """

    agent_id: str
    deployment_id: str
    runtime_provider: str
    trace_id: str
    admitted_at_ms: int
    outcome: Literal["succeeded", "failed", "unknown"]
    errors: int = 0
    error_class: str | None = None
    wall_ms: int | None = None
    key_id: str | None = None
