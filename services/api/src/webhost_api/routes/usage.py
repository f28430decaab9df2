"""The doors to usage. billing knows it; while billing is away, these answer UNAVAILABLE."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.questions import (
    Counters,
    RecentEventsAnswer,
    RecentEventsQuestion,
    UsageQuestion,
)
from webhost_contracts.questions import UsageAnswer as BillingsAnswer
from webhost_kit.questions import ask

from webhost_api import handlers, http, queries
from webhost_api.decisions import CLOUDFLARE
from webhost_api.handlers import Caller
from webhost_api.http import House, Limit, TheCaller, TheHouse, UserRoute, answered
from webhost_api.queries import DEFAULT_LIMIT, Page
from webhost_api.shapes.usage import (
    LimitsShape,
    UsageAnswer,
    UsageEventsAnswer,
    UsageShape,
    counters_shape,
    event_shape,
)

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
    return answered(UsageEventsAnswer(events=[*map(event_shape, answer.events)]))


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
            **counters_shape(answer.usage).model_dump(),
        ),
        by_runtime={name: counters_shape(counters) for name, counters in by_runtime.items()},
        limits=LimitsShape(
            requests=entitlements.requests,
            tokens=entitlements.tokens,
            compute_ms=entitlements.compute_ms,
        ),
    )
