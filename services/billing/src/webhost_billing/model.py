"""Pure: what is known of one invocation, and how its two reports become one.

The gateway reports that a call was made, how long it took and how it ended; the Worker reports
what it used. They arrive in either order, and each may arrive again. The merge is commutative: the
first report of each side counts, later ones of that side change nothing, and where both sides
report the same kind of thing the gateway's stands.
"""

import hashlib
from typing import Any

import msgspec
from msgspec.structs import replace
from webhost_contracts import wire
from webhost_contracts.events import Envelope, Event, InvocationFinished, TelemetryAccepted
from webhost_contracts.events.base import by_name
from webhost_contracts.events.telemetry import dedupe_key

TYPES = by_name(InvocationFinished, TelemetryAccepted)
KEY_BYTES = 16


class GatewaySide(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's own record. `wall_ms` is None where it died under the call."""

    invocation_id: str
    errors: int
    wall_ms: int | None


class WorkerSide(msgspec.Struct, frozen=True, kw_only=True):
    """What the Worker reported of itself."""

    event_id: str | None
    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one invocation, or of one call of a Worker by other means.

    At least one side is present. All else is as the gateway reported, or the Worker until it does;
    `at_ms` is the time of admission, or the one in the Worker's report.
    """

    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    at_ms: int
    trace_id: str | None = None
    key_id: str | None = None
    error_class: str | None = None
    gateway: GatewaySide | None = None
    worker: WorkerSide | None = None

    @property
    def source(self) -> str:
        """Say who has reported: `gateway`, `worker` or `both`."""
        if self.gateway is None:
            return "worker"
        return "gateway" if self.worker is None else "both"


class UsageReport(msgspec.Struct, frozen=True):
    """What one side reported of an invocation: one fact of the stream, under the invocation's key.

    `invocation` holds the one side only. `sequence` and `index` are its place on the stream.
    """

    key: bytes
    invocation: Invocation
    occurred_at_ms: int
    provider: bytes | None = None
    """The Worker's own details as JSON, for display only."""
    sequence: int = 0
    index: int = 0
    stream_ms: int = 0
    """The newest of the times that its message and those before it in its batch were stored at."""


def usage_report_of(
    envelope: Envelope, fact: Event, sequence: int = 0, index: int = 0, stream_ms: int = 0
) -> UsageReport:
    """Return what this fact reports. Raises TypeError for a fact that is not about usage."""
    if isinstance(fact, InvocationFinished):
        return _from_gateway(envelope, fact, sequence, index, stream_ms)
    if isinstance(fact, TelemetryAccepted):
        return _from_worker(envelope, fact, sequence, index, stream_ms)
    raise TypeError(f"{fact.type_name()} is not about usage")


def merge(known: Invocation | None, reported: Invocation) -> Invocation:
    """Return `known` merged with `reported`, which holds one side.

    Returns the same object `known` if that side was known already.
    """
    if known is None:
        return reported
    if reported.gateway is not None:
        return known if known.gateway is not None else replace(reported, worker=known.worker)
    return known if known.worker is not None else replace(known, worker=reported.worker)


def invocation_key(user_id: str, deployment_id: str, dedupe: str) -> bytes:
    """Return the 16-byte key that the reports of one invocation share.

    It includes the user, so that the rows of two partitions never collide.
    """
    key = f"{user_id} {deployment_id} {dedupe}".encode()
    return hashlib.blake2b(key, digest_size=KEY_BYTES).digest()


def _from_gateway(
    envelope: Envelope, fact: InvocationFinished, sequence: int, index: int, stream_ms: int
) -> UsageReport:
    # The Worker's front reports under the invocation's id.
    dedupe = dedupe_key(envelope.aggregate_id, None, "")
    invocation = Invocation(
        user_id=envelope.user_id,
        agent_id=fact.agent_id,
        deployment_id=fact.deployment_id,
        runtime_provider=fact.runtime_provider,
        at_ms=fact.admitted_at_ms,
        trace_id=_text(fact.trace_id),
        key_id=_text(fact.key_id),
        error_class=_text(fact.error_class),
        gateway=GatewaySide(
            invocation_id=envelope.aggregate_id, errors=fact.errors, wall_ms=fact.wall_ms
        ),
    )
    return UsageReport(
        invocation_key(envelope.user_id, fact.deployment_id, dedupe),
        invocation,
        envelope.occurred_at_ms,
        sequence=sequence,
        index=index,
        stream_ms=stream_ms,
    )


def _from_worker(
    envelope: Envelope, fact: TelemetryAccepted, sequence: int, index: int, stream_ms: int
) -> UsageReport:
    kind, _, identifier = fact.dedupe_key.partition(":")
    invocation = Invocation(
        user_id=envelope.user_id,
        agent_id=fact.agent_id,
        deployment_id=fact.deployment_id,
        runtime_provider=fact.runtime_provider,
        at_ms=fact.timestamp_ms,
        trace_id=_text(fact.trace_id),
        error_class=_text(fact.error_class),
        worker=WorkerSide(
            event_id=_text(identifier) if kind == "event" else None,
            requests=fact.requests,
            llm_tokens=fact.llm_tokens,
            compute_ms=fact.compute_ms,
            tool_calls=fact.tool_calls,
            errors=fact.errors,
        ),
    )
    provider: Any = fact.provider
    return UsageReport(
        invocation_key(envelope.user_id, fact.deployment_id, fact.dedupe_key),
        invocation,
        envelope.occurred_at_ms,
        None if provider is None else wire.encode(provider),
        sequence,
        index,
        stream_ms,
    )


def _text(value: str | None) -> str | None:
    """Return the text without NUL, which Postgres cannot store."""
    return None if value is None else value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
