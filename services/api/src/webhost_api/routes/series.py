"""Usage over time, requested from billing."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from webhost_contracts import subjects
from webhost_contracts.buckets import MOST, Bucket
from webhost_contracts.usage_rpc import SeriesReply, SeriesRequest
from webhost_kit.bus import rpc
from webhost_kit.http import problems

from webhost_api import dependencies, queries
from webhost_api.dependencies import AgentId, CurrentCaller, Deps
from webhost_api.handlers import Caller, deployment_not_found
from webhost_api.http import Dependencies, UserRoute
from webhost_api.routes.usage import MAX_MS
from webhost_api.schemas.series import SeriesResponse, series_json
from webhost_api.series import Span

router = APIRouter(tags=["usage"], route_class=UserRoute)

FromMs = Annotated[
    int | None,
    Query(
        alias="fromMs",
        ge=0,
        le=MAX_MS,
        examples=[1764460800000],
        description="Absent: an hour of minutes, a day of hours, 30 days. Minutes are kept for 35 "
        f"days, hours for 400, days for ever; at most {MOST} buckets are answered.",
    ),
]
ToMs = Annotated[
    int | None,
    Query(alias="toMs", ge=1, le=MAX_MS, description="Until before this time; absent: now."),
]
_BUCKETS = "Whole ones, in UTC: also those that `fromMs` and `toMs` lie in."


@router.get("/v1/usage/series", response_model=SeriesResponse)
async def usage_series(
    deps: Deps,
    caller: CurrentCaller,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    bucket: Annotated[Bucket, Query(description=_BUCKETS)] = "day",
) -> Response:
    """What the caller used, over all agents, by day or by another bucket."""
    return await _series(deps, caller, Span.requested(bucket, from_ms, to_ms, _now(caller)))


@router.get("/v1/agents/{agentId}/metrics", response_model=SeriesResponse)
async def agent_metrics(
    deps: Deps,
    caller: CurrentCaller,
    agent_id: AgentId,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    bucket: Annotated[Bucket, Query(description=_BUCKETS)] = "hour",
    deployment_id: Annotated[str | None, Query(alias="deploymentId")] = None,
    runtime_provider: Annotated[
        str | None, Query(alias="runtimeProvider", pattern="^[a-z0-9_-]{1,32}$")
    ] = None,
) -> Response:
    """What an agent used, by hour or by another bucket; also one that was deleted."""
    async with deps.database.transaction() as connection:
        await queries.agent(connection, caller.user_id, agent_id, or_tombstone=True)
        if deployment_id is not None:
            of = await queries.deployment(
                connection, caller.user_id, await dependencies.deployment_id(deployment_id)
            )
            if of.agent_id != agent_id:
                raise deployment_not_found()
    span = Span.requested(bucket, from_ms, to_ms, _now(caller))
    return await _series(deps, caller, span, agent_id, deployment_id, runtime_provider)


async def _series(
    deps: Dependencies,
    caller: Caller,
    span: Span,
    agent_id: str | None = None,
    deployment_id: str | None = None,
    runtime_provider: str | None = None,
) -> Response:
    request = SeriesRequest(
        user_id=caller.user_id,
        bucket=span.bucket,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        agent_id=agent_id,
        deployment_id=deployment_id,
        runtime_provider=runtime_provider,
    )
    reply = await rpc.call(deps.bus, subjects.RPC_USAGE_SERIES, request, SeriesReply)
    return Response(series_json(span.filled(reply.points)), media_type=problems.JSON_TYPE)


def _now(caller: Caller) -> int:
    return caller.metadata.at_ms
