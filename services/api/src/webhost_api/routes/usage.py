"""The doors to usage. billing knows it; while billing is away, these answer UNAVAILABLE."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.questions import (
    Counters,
    RecentEventsAnswer,
    RecentEventsQuestion,
    UsageEvent,
    UsageQuestion,
)
from webhost_contracts.questions import UsageAnswer as BillingsAnswer
from webhost_kit.questions import ask

from webhost_api import handlers, http, queries
from webhost_api.decisions import CLOUDFLARE
from webhost_api.handlers import Caller
from webhost_api.http import House, Limit, TheCaller, TheHouse, UserRoute, answered
from webhost_api.queries import DEFAULT_LIMIT, Page
from webhost_api.shapes import (
    CountersShape,
    LimitsShape,
    UsageAnswer,
    UsageEventsAnswer,
    UsageEventShape,
    UsageShape,
)

PICODOLLARS = 10**12
MAX_MS = 2**53 - 1

router = APIRouter(tags=["usage"], route_class=UserRoute)


@router.get("/v1/usage/current", response_model=UsageAnswer)
async def current_usage(house: TheHouse, caller: TheCaller) -> Response:
    """What the caller used in the period that runs now."""
    return answered(await _usage(house, caller, period_key(caller.circumstances.at_ms)))


@router.get("/v1/billing/usage", response_model=UsageAnswer)
async def usage_of_period(
    house: TheHouse,
    caller: TheCaller,
    period: Annotated[
        str | None,
        Query(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", description="YYYY-MM; absent: the one now."),
    ] = None,
) -> Response:
    """What the caller used in a period."""
    return answered(await _usage(house, caller, period or period_key(caller.circumstances.at_ms)))


@router.get("/v1/metrics/recent", response_model=UsageEventsAnswer)
async def recent_events(
    house: TheHouse,
    caller: TheCaller,
    agent_id: Annotated[str | None, Query(alias="agentId")] = None,
    since_ms: Annotated[int, Query(alias="sinceMs", ge=0, le=MAX_MS)] = 0,
    limit: Limit = DEFAULT_LIMIT,
    errors_only: Annotated[bool, Query(alias="errorsOnly")] = False,
) -> Response:
    """The caller's recent usage events, newest first."""
    if agent_id is not None:
        http.agent_id(agent_id)
        async with house.database.transaction() as connection:
            await queries.agent(connection, caller.user_id, agent_id, or_tombstone=True)
    question = RecentEventsQuestion(
        user_id=caller.user_id,
        agent_id=agent_id,
        since_ms=since_ms,
        limit=Page.asked(limit, None).limit,
        errors_only=errors_only,
    )
    answer = await ask(house.bus, subjects.ASK_RECENT_EVENTS, question, RecentEventsAnswer)
    return answered(UsageEventsAnswer(events=[*map(_event_shape, answer.events)]))


async def _usage(house: House, caller: Caller, period: str) -> UsageAnswer:
    async with house.database.transaction() as connection:
        tier, entitlements = await handlers.tier_of(connection, house.tiers, caller.user_id)
    question = UsageQuestion(user_id=caller.user_id, period_key=period)
    answer = await ask(house.bus, subjects.ASK_USAGE, question, BillingsAnswer)
    by_runtime = {CLOUDFLARE: Counters()} | answer.by_runtime
    return UsageAnswer(
        period_key=period,
        tier=tier,
        usage=UsageShape(
            user_id=caller.user_id,
            period_key=period,
            updated_at_ms=answer.updated_at_ms,
            **_counters(answer.usage).model_dump(),
        ),
        by_runtime={name: _counters(counters) for name, counters in by_runtime.items()},
        limits=LimitsShape(
            requests=entitlements.requests,
            tokens=entitlements.tokens,
            compute_ms=entitlements.compute_ms,
        ),
    )


def _counters(counters: Counters) -> CountersShape:
    return CountersShape(
        requests=counters.requests,
        llm_tokens=counters.llm_tokens,
        compute_ms=counters.compute_ms,
        tool_calls=counters.tool_calls,
        errors=counters.errors,
        cost_usd_estimated=counters.cost_picodollars / PICODOLLARS,
    )


def _event_shape(event: UsageEvent) -> UsageEventShape:
    return UsageEventShape(
        id=event.id,
        user_id=event.user_id,
        agent_id=event.agent_id,
        deployment_id=event.deployment_id,
        runtime_provider=event.runtime_provider,
        invocation_id=event.invocation_id,
        event_id=event.event_id,
        trace_id=event.trace_id,
        timestamp_ms=event.timestamp_ms,
        error_class=event.error_class,
        source=event.source,
        provider=event.provider,
        **_counters(event.counters).model_dump(),
    )
