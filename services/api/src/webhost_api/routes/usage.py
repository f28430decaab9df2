"""Usage, requested from billing; while billing is away, these routes answer UNAVAILABLE."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import (
    Counters,
    RecentEventsReply,
    RecentEventsRequest,
    UsageReply,
    UsageRequest,
)
from webhost_kit.bus import rpc

from webhost_api import dependencies, handlers, queries
from webhost_api.decisions import CLOUDFLARE
from webhost_api.dependencies import CurrentCaller, Deps, Limit, Period
from webhost_api.handlers import Caller
from webhost_api.http import Dependencies, UserRoute, answered
from webhost_api.keys import access
from webhost_api.keys.access import open_to_limited
from webhost_api.queries import DEFAULT_LIMIT, Page
from webhost_api.schemas.usage import (
    LimitsSchema,
    UsageEventsResponse,
    UsageResponse,
    UsageSchema,
    counters_schema,
    event_schema,
)

MAX_MS = 2**53 - 1

router = APIRouter(tags=["usage"], route_class=UserRoute)


@router.get("/v1/usage/current", response_model=UsageResponse)
async def current_usage(deps: Deps, caller: CurrentCaller) -> Response:
    """The caller's usage in the current period."""
    return answered(await _usage(deps, caller, period_key(caller.metadata.at_ms)))


@router.get("/v1/billing/usage", response_model=UsageResponse)
async def usage_of_period(deps: Deps, caller: CurrentCaller, period: Period = None) -> Response:
    """What the caller used in a period."""
    return answered(await _usage(deps, caller, period or period_key(caller.metadata.at_ms)))


@router.get("/v1/metrics/recent", response_model=UsageEventsResponse)
@open_to_limited
async def recent_events(
    deps: Deps,
    caller: CurrentCaller,
    agent_id: Annotated[str | None, Query(alias="agentId")] = None,
    since_ms: Annotated[int, Query(alias="sinceMs", ge=0, le=MAX_MS)] = 0,
    limit: Limit = DEFAULT_LIMIT,
    errors_only: Annotated[bool, Query(alias="errorsOnly")] = False,
) -> Response:
    """The caller's recent usage events, newest first."""
    if agent_id is None:
        access.require_whole_account(caller)
    else:
        caller.require_agent(await dependencies.agent_id(agent_id))
        async with deps.database.transaction() as connection:
            await queries.agent(connection, caller.user_id, agent_id, or_tombstone=True)
    request = RecentEventsRequest(
        user_id=caller.user_id,
        agent_id=agent_id,
        since_ms=since_ms,
        limit=Page.requested(limit, None).limit,
        errors_only=errors_only,
    )
    reply = await rpc.call(deps.bus, subjects.RPC_RECENT_EVENTS, request, RecentEventsReply)
    return answered(UsageEventsResponse(events=[*map(event_schema, reply.events)]))


async def _usage(deps: Dependencies, caller: Caller, period: str) -> UsageResponse:
    async with deps.database.transaction() as connection:
        tier, entitlements = await handlers.tier_of(connection, deps.tiers, caller.user_id)
    request = UsageRequest(user_id=caller.user_id, period_key=period)
    reply = await rpc.call(deps.bus, subjects.RPC_USAGE, request, UsageReply)
    by_runtime = {CLOUDFLARE: Counters()} | reply.by_runtime
    return UsageResponse(
        period_key=period,
        tier=tier,
        usage=UsageSchema(
            user_id=caller.user_id,
            period_key=period,
            updated_at_ms=reply.updated_at_ms,
            **counters_schema(reply.usage).model_dump(),
        ),
        by_runtime={name: counters_schema(counters) for name, counters in by_runtime.items()},
        limits=LimitsSchema(
            requests=entitlements.requests,
            tokens=entitlements.tokens,
            compute_ms=entitlements.compute_ms,
        ),
    )
