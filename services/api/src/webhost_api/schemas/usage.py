"""Usage. Costs are exact picodollars inside, and a number of dollars here."""

from typing import Annotated, Any

from pydantic import Field
from webhost_contracts.usage_rpc import Counters, UsageEvent

from webhost_api.schemas.base import OptionalText, Schema, is_absent

PICODOLLARS = 10**12


class CountersSchema(Schema):
    """Summed counters. The cost is an estimate, in dollars."""

    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    cost_usd_estimated: float


class UsageSchema(CountersSchema):
    """A user's counters of one period."""

    user_id: str
    period_key: str
    updated_at_ms: int


class LimitsSchema(Schema):
    """The tier's limits; null is unlimited."""

    requests: int | None
    tokens: int | None
    compute_ms: int | None


class UsageResponse(Schema):
    """What a user used in a period, and may use."""

    period_key: str
    tier: str
    usage: UsageSchema
    by_runtime: dict[str, CountersSchema]
    limits: LimitsSchema


class UsageEventSchema(Schema):
    """One counted call or report."""

    id: str
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    invocation_id: OptionalText = None
    event_id: OptionalText = None
    trace_id: OptionalText = None
    key_id: OptionalText = None
    timestamp_ms: int
    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    error_class: OptionalText = None
    cost_usd_estimated: float
    source: str
    provider: Annotated[dict[str, Any] | None, Field(exclude_if=is_absent)] = None


class UsageEventsResponse(Schema):
    """Recent usage events, newest first."""

    events: list[UsageEventSchema]


def counters_schema(counters: Counters) -> CountersSchema:
    """Return summed counters, as JSON."""
    return CountersSchema(
        requests=counters.requests,
        llm_tokens=counters.llm_tokens,
        compute_ms=counters.compute_ms,
        tool_calls=counters.tool_calls,
        errors=counters.errors,
        cost_usd_estimated=counters.cost_picodollars / PICODOLLARS,
    )


def event_schema(event: UsageEvent) -> UsageEventSchema:
    """Return a counted call, as JSON."""
    return UsageEventSchema(
        id=event.id,
        user_id=event.user_id,
        agent_id=event.agent_id,
        deployment_id=event.deployment_id,
        runtime_provider=event.runtime_provider,
        invocation_id=event.invocation_id,
        event_id=event.event_id,
        trace_id=event.trace_id,
        key_id=event.key_id,
        timestamp_ms=event.timestamp_ms,
        error_class=event.error_class,
        source=event.source,
        provider=event.provider,
        **counters_schema(event.counters).model_dump(),
    )
