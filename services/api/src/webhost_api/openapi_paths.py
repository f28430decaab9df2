"""The routes of the gateway and of telemetry-ingest, for the one OpenAPI document.

They are raw ASGI without descriptions of their own; their bodies are the contracts' structs.
"""

from typing import Any

import msgspec
from webhost_contracts.delegation import DelegatedRequest
from webhost_contracts.errors import ErrorCode
from webhost_contracts.invoke import InvokeRequest, InvokeResponse
from webhost_contracts.signatures import (
    DELEGATION_SIGNATURE_HEADER,
    DELEGATION_SOURCE_HEADER,
    DELEGATION_TIMESTAMP_HEADER,
    TELEMETRY_DEPLOYMENT_HEADER,
    TELEMETRY_SIGNATURE_HEADER,
)
from webhost_contracts.telemetry import TelemetryReceipt, TelemetryReport
from webhost_kit.http.idempotency import HEADER, KEY_PATTERN

from webhost_api.openapi_responses import refusals

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_SIGNATURE = "TelemetrySignature"
_DELEGATION = "DelegationSignature"
_BODIES = (InvokeRequest, InvokeResponse, DelegatedRequest, TelemetryReport, TelemetryReceipt)

_INVOKE = (
    *(ErrorCode.LIMIT_EXCEEDED, ErrorCode.CONFLICT, ErrorCode.RUNTIME_ERROR),
    *(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND),
)

_EITHER: Json = {
    "oneOf": [
        {
            "required": [given],
            "properties": {given: {"type": kind}, other: {"type": "null"}},
        }
        for given, kind, other in (
            ("prompt", "string", "messages"),
            ("messages", "array", "prompt"),
        )
    ]
}
_CALL: Json = {"input": {"prompt": "Where is my order?"}, "traceId": "checkout-42"}
_FOR_A_USER: Json = {
    "delegation": {"mode": "hmac_v1", "externalUserId": "user_2abc", "idempotencyKey": "order-42"},
    "invoke": _CALL,
}
_USED: Json = {
    "userId": "usr_0x6wshn6yp985kmv15emf6e21m",
    "agentId": "agt_01kbbkbng8emasa58n2maha58n",
    "deploymentId": "dep_01kbbkbng8emasa58n2maha58n",
    "runtimeProvider": "cloudflare",
    "timestampMs": 1764547200000,
    "requests": 1,
    "llmTokens": 120,
    "computeMs": 850,
    "errors": 0,
    "eventId": "inv_01kbbkbng8emasa58n2maha58n",
}

_EVENT: Json = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["meta", "delta", "usage", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_PRINTABLE: Json = {"pattern": "^[\\x20-\\x7e]*$"}
_REPORTED: Json = {
    "eventId": _PRINTABLE,
    "traceId": _PRINTABLE,
    "costUsdEstimated": {"pattern": r"^-?[0-9]{1,30}(\.[0-9]{1,30})?$"},
    "provider": {"description": "At most 4 KiB of JSON, nested at most 32 levels deep."},
}

_STREAM = """\
Server-sent events; the schema is that of one. Each is forwarded as soon as the agent has written
it: `meta` first, with `{protocol, traceId, invocationId, agentId, deploymentId, sessionId}`;
`delta` with `{text}`, any number; `usage` at most once; then exactly one `done` with `{}` or
`error` with the error envelope. Every event has an id; a comment is the heartbeat."""

_STREAM_EXAMPLE = """\
id: 1
event: meta
data: {"protocol":"invoke/v1","traceId":"…","invocationId":"inv_…","agentId":"agt_…",\
"deploymentId":"dep_…","sessionId":"ses_…"}

id: 2
event: delta
data: {"text":"You said: Hello"}

id: 3
event: usage
data: {"tokens":5,"computeMs":3,"toolCalls":0}

id: 4
event: done
data: {}

"""


_AGENT_ID: Json = {"name": "agentId", "in": "path", "required": True, "schema": {"type": "string"}}
_KEY: Json = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "description": (
        "Lets one of the calls with this key and this body run; the others get its answer, for "
        "24 hours and up to 256 KiB. With another body, or at the other endpoint: CONFLICT, "
        "`key_reused`. While the first runs: CONFLICT, `running`, to be tried again. Where its "
        "answer is no longer kept: `already_done`. Where it is not known how it ended: "
        "`outcome_unknown`."
    ),
}
_INVOCATION_ID: Json = {
    "X-Webhost-Invocation-Id": {
        "description": "The call that the answer is of, once it is admitted.",
        "schema": {"type": "string"},
    }
}


BEARER = """\
A JWT of the installation's issuer, or an API key (`whs_…`). A key needs the request's scope:
`invoke` to call an agent, `read` for every GET, `deploy` to deploy and to activate, `secrets` for
secrets, `admin` for all of these and everything else. Keys are made, rotated and revoked with a JWT
only."""


def add_to(document: Json, *, bearer: str) -> None:
    """Add the routes; `bearer` is the security scheme of users. Raises ValueError on a clash."""
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template=_REF)
    components = document["components"]
    if clash := schemas.keys() & components["schemas"].keys():
        raise ValueError(f"two schemas of one name: {', '.join(sorted(clash))}")
    components["schemas"] |= schemas
    components["schemas"]["Input"] |= _EITHER
    for name, said in _REPORTED.items():
        components["schemas"]["TelemetryReport"]["properties"][name] |= said
    components["securitySchemes"][_SIGNATURE] = {
        "type": "apiKey",
        "in": "header",
        "name": TELEMETRY_SIGNATURE_HEADER,
        "description": "`v1=` and the HMAC-SHA256 of the body in hex, with the deployment's key.",
    }
    components["securitySchemes"][_DELEGATION] = {
        "type": "apiKey",
        "in": "header",
        "name": DELEGATION_SIGNATURE_HEADER,
        "description": "`v1=` and the HMAC-SHA256 of the body in hex, with the source's secret.",
    }
    document["paths"] |= {
        "/v1/invoke/{agentId}": {
            "post": _invocation(
                "invoke",
                "Call an agent, and get its answer as a whole.",
                bearer,
                {"application/json": {"schema": _ref(InvokeResponse)}},
            )
        },
        "/v1/invoke/{agentId}/stream": {
            "post": _invocation(
                "invoke_stream",
                "Call an agent, and get its answer as it comes.",
                bearer,
                {
                    "text/event-stream": {
                        "schema": _EVENT | {"description": _STREAM},
                        "example": _STREAM_EXAMPLE,
                    }
                },
            )
        },
        "/v1/delegated/invoke/{agentId}": {"post": _delegated()},
        "/v1/telemetry/report": {"post": _report()},
    }


def _invocation(name: str, summary: str, bearer: str, content: Json) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "security": [{bearer: []}],
        "parameters": [_AGENT_ID, _KEY],
        "requestBody": _body(InvokeRequest, _CALL),
        "responses": _invoked(content, *_INVOKE),
    }


def _delegated() -> Json:
    return {
        "operationId": "invoke_delegated",
        "summary": "Call an agent for one of your users, as a trusted back end.",
        "security": [{_DELEGATION: []}],
        "parameters": [
            _AGENT_ID,
            _header(DELEGATION_SOURCE_HEADER, "Whose secret signed the body.", "string"),
            _header(
                DELEGATION_TIMESTAMP_HEADER,
                "When the request was made, in Unix milliseconds; five minutes to either side.",
                "integer",
            ),
        ],
        "requestBody": _body(DelegatedRequest, _FOR_A_USER),
        "responses": _invoked(
            {"application/json": {"schema": _ref(InvokeResponse)}},
            ErrorCode.UNAUTHENTICATED,
            *_INVOKE,
        ),
    }


def _invoked(content: Json, *refused: ErrorCode) -> Json:
    """Return the answers of an invocation."""
    return {
        "200": {
            "description": "The agent's answer.",
            "headers": dict(_INVOCATION_ID),
            "content": content,
        },
        **_errors(refused),
        "504": {},
    }


def _header(name: str, description: str, kind: str) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "schema": {"type": kind},
        "description": description,
    }


def _report() -> Json:
    return {
        "operationId": "report_telemetry",
        "summary": "Report what a call used, as a deployment's Worker does.",
        "security": [{_SIGNATURE: []}],
        "parameters": [
            _header(TELEMETRY_DEPLOYMENT_HEADER, "Whose key signed the body.", "string"),
        ],
        "requestBody": _body(TelemetryReport, _USED),
        "responses": {
            "202": {
                "description": "The report is durable.",
                "content": {"application/json": {"schema": _ref(TelemetryReceipt)}},
            },
            **_errors((ErrorCode.UNAUTHENTICATED, ErrorCode.UNAUTHORIZED)),
        },
    }


def _body(kind: type[msgspec.Struct], example: Json) -> Json:
    content = {"application/json": {"schema": _ref(kind), "example": example}}
    return {"required": True, "content": content}


def _errors(codes: tuple[ErrorCode, ...]) -> Json:
    return {str(status): response for status, response in refusals(*codes).items()}


def _ref(kind: type[msgspec.Struct]) -> Json:
    return {"$ref": _REF.format(name=kind.__name__)}
