"""What operators' programs read: settled usage, requested from billing."""

from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Query, Response
from webhost_contracts import subjects
from webhost_contracts.errors import ErrorCode
from webhost_contracts.usage_feed import (
    BATCH_TYPE,
    DEFAULT_LIMIT,
    EVENT_TYPE,
    MOST,
    CloudEvent,
    Refusal,
    UsageFeedReply,
    UsageFeedRequest,
    cloud_event,
)
from webhost_kit.bus import rpc
from webhost_kit.errors import Conflict, InvalidRequest, Problem

from webhost_api.dependencies import Deps
from webhost_api.openapi_responses import refusals
from webhost_api.operators import OperatorRoute

NEXT_CURSOR = "X-Webhost-Next-Cursor"
PATH = "/v1/operator/usage-events"
MAX_CURSOR_CHARS = 1_000

router = APIRouter(tags=["operators"], route_class=OperatorRoute)

_FEED = f"""\
Settled usage as CloudEvents 1.0, a JSON batch: `id` is the invocation's, `source` the installation,
`subject` the user, `time` that of the call, `type` always `{EVENT_TYPE}`. What is known of an
invocation later is an event with an id of its own and `data.correctionOf`, whose counters are what
is to be added and may be negative: so sum, and do not count events. What was read twice can be told
by its id."""
_EXAMPLE: list[dict[str, Any]] = [
    {
        "specversion": "1.0",
        "id": "inv_01kbbkbng8emasa58n2maha58n",
        "source": "ins_5b1f0c9ad2e84c77",
        "type": EVENT_TYPE,
        "time": "2026-11-29T21:30:00.125Z",
        "subject": "usr_0x6wshn6yp985kmv15emf6e21m",
        "datacontenttype": "application/json",
        "data": {
            "agentId": "agt_01kbbkbng8emasa58n2maha58n",
            "deploymentId": "dep_01kbbkbng8emasa58n2maha58n",
            "runtimeProvider": "cloudflare",
            "periodKey": "2026-11",
            "requests": 1,
            "llmTokens": 120,
            "computeMs": 850,
            "toolCalls": 0,
            "errors": 0,
            "costPicodollars": "18000000",
            "source": "both",
            "invocationId": "inv_01kbbkbng8emasa58n2maha58n",
        },
    }
]
_CURSOR_EXAMPLE = "AQAAAAAAAAAq0m4x9Q"


def _schema() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([CloudEvent], ref_template="{name}")
    event = components["CloudEvent"]
    event["properties"]["data"] = components["UsageData"]
    event["required"] = [*event["properties"]]
    for name in ("specversion", "type", "datacontenttype"):
        event["properties"][name] = {"const": event["properties"][name]["default"]}
    return {"type": "array", "maxItems": MOST, "items": event, "description": _FEED}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The next events, none where there are no new ones.",
        "content": {BATCH_TYPE: {"schema": _schema(), "example": _EXAMPLE}},
        "headers": {
            NEXT_CURSOR: {
                "description": "The `after` of the next request, now or later.",
                "required": True,
                "schema": {"type": "string"},
                "example": _CURSOR_EXAMPLE,
            },
            "Link": {
                "description": 'The next page, `rel="next"`, where there are more events by now.',
                "schema": {"type": "string"},
                "example": f'<{PATH}?after={_CURSOR_EXAMPLE}&limit=100>; rel="next"',
            },
        },
    },
    **refusals(ErrorCode.UNAUTHENTICATED, ErrorCode.CONFLICT),
}


@router.get(PATH, response_class=Response, responses=_RESPONSES)
async def usage_events(
    deps: Deps,
    after: Annotated[
        str | None,
        Query(
            max_length=MAX_CURSOR_CHARS,
            pattern="^[A-Za-z0-9_-]*$",
            examples=[_CURSOR_EXAMPLE],
            description=f"The `{NEXT_CURSOR}` of an earlier page; absent: all that is kept.",
        ),
    ] = None,
    limit: Annotated[
        int, Query(description=f"1 to {MOST}; other values are clamped.")
    ] = DEFAULT_LIMIT,
) -> Response:
    """Settled usage, for metering and billing systems.

    Every event is given once, in an order that stays; a cursor resumes behind its page. One that is
    older than what is kept, or of a feed that was restored to another history, is a CONFLICT, and
    `details.reason` says which: `expired` or `other_history`.
    """
    limit = max(1, min(limit, MOST))
    request = UsageFeedRequest(after=after, limit=limit)
    reply = await rpc.call(deps.bus, subjects.RPC_USAGE_FEED, request, UsageFeedReply)
    if reply.refused is not None:
        raise _problem(reply.refused)
    headers = {NEXT_CURSOR: reply.next}
    if reply.more:
        query = urlencode({"after": reply.next, "limit": limit})
        headers["Link"] = f'<{PATH}?{query}>; rel="next"'
    events = [cloud_event(entry, reply.source) for entry in reply.entries]
    return Response(msgspec.json.encode(events), media_type=BATCH_TYPE, headers=headers)


def _problem(refused: Refusal) -> Problem:
    if refused.reason == "invalid":
        return InvalidRequest.at(["after"], refused.message)
    return Conflict(refused.message, details={"reason": refused.reason})
