"""What the gateway records about a call, and the fact that it states from that. Pure."""

from typing import Literal

import msgspec
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope, InvocationFinished
from webhost_contracts.events.base import data_of

ACTOR = "service:gateway"


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted call, as it is on record.

    `key_period` is the period of the API key's own limit, where it has one.
    """

    id: str
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    trace_id: str
    period_key: str
    admitted_at_ms: int
    key_id: str | None = None
    key_period: str | None = None


class Claim(msgspec.Struct, frozen=True):
    """A row of the idempotency ledger, as the statement that admits its call makes it."""

    invocation_id: str
    user_id: str
    agent_id: str
    kind: str
    key: str
    key_id: str
    fingerprint: str
    created_at_ms: int

    @property
    def binding(self) -> bytes:
        """What a sealed answer is bound to."""
        scope = (self.user_id, self.agent_id, self.kind, self.key, self.invocation_id)
        return msgspec.json.encode(scope)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended. `wall_ms` is None if the gateway died during the call."""

    outcome: Literal["succeeded", "failed", "unknown"]
    error_class: str | None = None
    wall_ms: int | None = None


class Closing(msgspec.Struct, frozen=True):
    """A row of the statement FINISH: what to close, and the fact that says so.

    `subject` is that of the packet which will carry the fact.
    """

    id: str
    user_id: str
    period_key: str
    finished_at_ms: int
    subject: str
    body: str


def closing(
    invocation: Invocation,
    outcome: Outcome,
    at_ms: int,
    *,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> Closing:
    """Return what closes this invocation. Its event id follows from its own id."""
    fact = InvocationFinished(
        agent_id=invocation.agent_id,
        deployment_id=invocation.deployment_id,
        runtime_provider=invocation.runtime_provider,
        trace_id=invocation.trace_id,
        admitted_at_ms=invocation.admitted_at_ms,
        outcome=outcome.outcome,
        errors=1 if outcome.outcome == "failed" else 0,
        error_class=outcome.error_class,
        wall_ms=outcome.wall_ms,
        key_id=invocation.key_id,
    )
    envelope = Envelope(
        event_id=f"{ids.EVENT}_{ids.suffix(invocation.id)}",
        aggregate_id=invocation.id,
        version=1,
        user_id=invocation.user_id,
        occurred_at_ms=at_ms,
        actor=ACTOR,
        data=data_of(fact),
        request_id=request_id,
        traceparent=traceparent,
    )
    return Closing(
        id=invocation.id,
        user_id=invocation.user_id,
        period_key=invocation.period_key,
        finished_at_ms=at_ms,
        subject=subjects.usage_packets(subjects.partition_of(invocation.user_id), subjects.GATEWAY),
        body=wire.encode(envelope).decode(),
    )
