"""What happened: the audit, the log of a deployment, and an agent's events as they happen."""

from time import monotonic, time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from webhost_kit.clock import now_ms
from webhost_kit.errors import InvalidRequest

from webhost_api import dependencies, queries, timeline
from webhost_api.dependencies import AgentId, CurrentCaller, Cursor, DeploymentId, Deps, Limit
from webhost_api.event_stream import HEARTBEAT, ID_PATTERN, READY, Place, Stream, frame
from webhost_api.handlers import require_enabled, tier_of
from webhost_api.history import audit_since, logs_since, outcome_of
from webhost_api.http import UserRoute, answered
from webhost_api.queries import DEFAULT_LIMIT
from webhost_api.schemas.history import AuditEntry, AuditResponse, LogLine, LogResponse
from webhost_api.timeline import Window
from webhost_api.watchers import Watcher

router = APIRouter(tags=["history"], route_class=UserRoute)

LONGEST_S = 3600.0
"""A stream ends after this long at the latest; its client is then authenticated again."""

_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

_STREAM = """\
Server-sent events of this agent, as they happen; the schema is that of one. The name of each is its
type (docs/events.md), the data `{id, type, agentId, deploymentId?, atMs, actor, data}` with what of
the event is shown. An id is an event's number among its agent's, from 1, and a part of its `id`, so
that none is taken for another one of that number; send it back whole. With `Last-Event-ID`, those
behind it come first, none missing and none twice; `0` is before all of them. Without, `ready` comes
first, with the id of the newest event, and what follows is new. `reset`, in place of events that
are no longer there (they are older than the plan's `logDays`), or not there yet or others than
before (after a restore), says: read the agent anew; what follows is behind the reset's id.
`invocation.finished.v1` has no id: a notice of a counted call, live only; it may be missing or come
twice. After `agent.deleted.v1` the stream ends; otherwise when the token or API key expires, when
the key is revoked or the account disabled, after an hour, or when the service stops: connect again
with the last id. A comment is the heartbeat."""

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_EXAMPLE = """\
id: 7-7m2q9xk4
event: ready
data: {"agentId":"agt_…"}

id: 8-c5w0f3dz
event: deployment.step_succeeded.v1
data: {"id":"evt_…","type":"deployment.step_succeeded.v1","agentId":"agt_…","atMs":1767225600000,\
"actor":"service:deployer","data":{"step":"upload","attempt":1,"startedAtMs":1767225599000},\
"deploymentId":"dep_…"}

"""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The agent's events, until one of the two sides ends.",
        "content": {
            "text/event-stream": {
                "schema": _EVENT | {"description": _STREAM},
                "example": _EXAMPLE,
            }
        },
    }
}


@router.get("/v1/audit", response_model=AuditResponse)
async def list_audit(
    deps: Deps,
    caller: CurrentCaller,
    agent_id: Annotated[str | None, Query(alias="agentId")] = None,
    action: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z_.]*$",
            max_length=100,
            description="As in the entries: `agent.created`, …",
        ),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """What happened to the caller's agents, deployments and plan, newest first.

    Entries are kept for the plan's `telemetryDays`.
    """
    window = Window.requested(limit, cursor)
    if agent_id is not None:
        await dependencies.agent_id(agent_id)
    async with deps.database.transaction() as connection:
        if agent_id is not None:
            await queries.agent(connection, caller.user_id, agent_id, or_tombstone=True)
        _, entitlements = await tier_of(connection, deps.tiers, caller.user_id)
        rows, following = await timeline.audit(
            connection,
            caller.user_id,
            window,
            since_ms=audit_since(entitlements, now_ms()),
            agent_id=agent_id,
            action=action,
        )
    entries = [
        AuditEntry(
            id=row.event_id,
            at_ms=row.at_ms,
            action=row.action,
            actor=row.actor,
            agent_id=row.agent_id,
            deployment_id=row.deployment_id,
            request_id=row.request_id,
            trace_id=row.trace_id,
            details=row.data,
        )
        for row in rows
    ]
    return answered(AuditResponse(entries=entries, next_cursor=following))


@router.get("/v1/deployments/{deploymentId}/logs", response_model=LogResponse)
async def deployment_logs(
    deps: Deps,
    caller: CurrentCaller,
    deployment_id: DeploymentId,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """What happened to a deployment: each attempt at each step, and its end; newest first.

    Lines are kept for the plan's `logDays`.
    """
    window = Window.requested(limit, cursor)
    async with deps.database.transaction() as connection:
        await queries.deployment(connection, caller.user_id, deployment_id)
        _, entitlements = await tier_of(connection, deps.tiers, caller.user_id)
        rows, following = await timeline.deployment_log(
            connection, deployment_id, window, since_ms=logs_since(entitlements, now_ms())
        )
    lines = [
        LogLine.model_validate(
            {
                "id": row.event_id,
                "at_ms": row.at_ms,
                "type": row.type,
                "outcome": outcome_of(row.type),
                **row.data,
            }
        )
        for row in rows
    ]
    return answered(LogResponse(lines=lines, next_cursor=following))


class EventStream(StreamingResponse):
    """A response that ends with its stream, and closes it when its client goes away."""

    def __init__(self, stream: Stream, first: bytes) -> None:
        super().__init__(stream.frames(first), headers=_HEADERS, media_type="text/event-stream")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


@router.get("/v1/agents/{agentId}/events", response_class=StreamingResponse, responses=_RESPONSES)
async def agent_events(
    deps: Deps,
    caller: CurrentCaller,
    agent_id: AgentId,
    last_event_id: Annotated[
        str,
        Header(
            alias="Last-Event-ID",
            description="The id of the last event that was received.",
            json_schema_extra={"pattern": f"^({ID_PATTERN})?$"},
            examples=["7-7m2q9xk4"],
        ),
    ] = "",
) -> Response:
    """An agent's events as they happen, and notices of its counted calls."""
    async with deps.database.transaction() as connection:
        await queries.agent(connection, caller.user_id, agent_id)
        await require_enabled(connection, caller.user_id)
        place = await timeline.newest(connection, agent_id)
    first = frame(READY, {"agentId": agent_id}, place)
    if last_event_id:
        place, first = _place_of(last_event_id), HEARTBEAT
    left_s = min(caller.good_until_ms / 1000 - time(), LONGEST_S)
    watcher = Watcher(caller.user_id, caller.presented)
    return EventStream(deps.feed.open(watcher, agent_id, place, monotonic() + left_s), first)


def _place_of(event_id: str) -> Place:
    try:
        return Place.parse(event_id)
    except ValueError as error:
        message = "This is not the id of an agent's event."
        raise InvalidRequest.at(["Last-Event-ID"], message) from error
