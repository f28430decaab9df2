"""The body that a Worker posts to the telemetry endpoint, and its headers' limits."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_BODY_BYTES = 64 * 1024
MAX_PROVIDER_BYTES = 4 * 1024
OLDEST_MS = 35 * 24 * 3600 * 1000
NEWEST_MS = 5 * 60 * 1000

Counter = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Identifier = Annotated[str, Meta(min_length=1, max_length=128)]


class TelemetryReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A report. Unknown fields are dropped; counters are integers from 0 to 10^9.

    `started_at_ms` is when the Worker began with the call, by its own clock: for its trace.
    """

    user_id: Identifier
    agent_id: Identifier
    deployment_id: Identifier
    runtime_provider: Identifier
    timestamp_ms: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    requests: Counter
    llm_tokens: Counter
    compute_ms: Counter
    errors: Counter
    event_id: Identifier | None = None
    trace_id: Identifier | None = None
    tool_calls: Counter | None = None
    error_class: Literal["auth", "limit", "runtime", "tool", "unknown"] | None = None
    cost_usd_estimated: float | str | None = None
    provider: dict[str, Any] | None = None
    started_at_ms: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class TelemetryReceipt(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to an accepted report."""

    accepted: bool
    event_id: str
    deduped: bool
