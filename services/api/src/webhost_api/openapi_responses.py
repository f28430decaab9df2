"""What every operation of the document answers: each refusal by its status, headers, examples.

A route declares with `refusals` what only some routes answer; the rest follows from the operation:

| status             | operations                                   |
|--------------------|----------------------------------------------|
| 400                | with a body, a query or a header to be wrong |
| 401, 403           | with a bearer token                          |
| 404                | with an id in the path or the query          |
| 408, 413, 429      | all                                          |
| 500, 503           | all                                          |

A response that has content of its own is left as it is.
"""

from typing import Any

from pydantic.json_schema import models_json_schema
from webhost_contracts.errors import HTTP_STATUS, ErrorCode

from webhost_api.openapi_examples import add_examples
from webhost_api.schemas.errors import ErrorResponse

Json = dict[str, Any]

_SCHEMA = "#/components/schemas/{model}"
_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_LIMIT: Json = {
    "limitType": {**_TEXT, "example": "requests"},
    "periodKey": {**_TEXT, "example": "2026-11"},
    "current": _NUMBER,
    "limit": _NUMBER,
    "suggestedAction": {**_TEXT, "example": "upgrade"},
}
_REASON: Json = {"reason": {**_TEXT, "example": "agent_disabled"}}
_ISSUES: Json = {
    "issues": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["path", "message"],
            "properties": {
                "path": {"type": "array", "items": {"type": ["string", "integer"]}},
                "message": _TEXT,
            },
        },
        "example": [{"path": ["name"], "message": "Field required"}],
    }
}
_FAILURES = ["network_error", "timeout", "upstream_status", "invalid_response", "session_expired"]
_RUNTIME: Json = {
    "failure": {"enum": _FAILURES, "example": "upstream_status"},
    "upstreamStatus": {**_NUMBER, "example": 500},
    "invokeHost": {**_TEXT, "example": "agents.example.com"},
    "upstreamBodySnippet": {**_TEXT, "maxLength": 500, "example": "Something went wrong."},
}

HEADERS: Json = {
    "X-Request-Id": {
        "description": "The request's own, if it had a valid one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"},
        "example": "req_8c1f0de5a4b79c3d2e10f6a7",
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 29,
    },
    "RateLimit": {
        "description": "The policy that refused: what remains of it, and the seconds to wait.",
        "required": True,
        "schema": {"type": "string"},
        "example": '"user";r=0;t=29',
    },
    "RateLimit-Policy": {
        "description": "The requests that the policy allows, and in how many seconds.",
        "required": True,
        "schema": {"type": "string"},
        "example": '"user";q=3000;w=60',
    },
}


class _Refusal:
    """One refusal: its code, message, details and the headers beside the request id."""

    def __init__(
        self,
        code: ErrorCode,
        says: str,
        message: str,
        *,
        details: Json | None = None,
        required: tuple[str, ...] = (),
        headers: tuple[str, ...] = (),
        retryable: bool | None = False,
    ) -> None:
        self.code = code
        self.headers = ("X-Request-Id", *headers)
        self._says = says
        self._message = message
        self._details = details or {}
        self._required = required
        self._retryable = retryable

    def response(self) -> Json:
        """Return the response object."""
        details: Json = {"type": "object", "properties": self._details}
        if self._required:
            details["required"] = list(self._required)
        error: Json = {"code": {"const": self.code.value}, "details": details}
        if self._retryable is not None:
            error["retryable"] = {"const": self._retryable}
        schema = {
            "allOf": [
                {"$ref": _SCHEMA.format(model=ErrorResponse.__name__)},
                {
                    "type": "object",
                    "properties": {"error": {"type": "object", "properties": error}},
                },
            ]
        }
        example = {
            "error": {
                "code": self.code.value,
                "message": self._message,
                "retryable": bool(self._retryable),
                "details": {
                    name: shape.get("example", 1000) for name, shape in self._details.items()
                },
                "requestId": HEADERS["X-Request-Id"]["example"],
            }
        }
        return {
            "description": f"{self.code.value}: {self._says}",
            "headers": {name: _header(name) for name in self.headers},
            "content": {"application/json": {"schema": schema, "example": example}},
        }


_RATE_LIMIT = ("Retry-After", "RateLimit", "RateLimit-Policy")
REFUSALS: dict[int, _Refusal] = {
    400: _Refusal(
        ErrorCode.INVALID_REQUEST,
        "the request is not of the shape that is described; `details.issues` says where.",
        "The request is not valid.",
        details=_ISSUES,
    ),
    401: _Refusal(
        ErrorCode.UNAUTHENTICATED,
        "no credentials, expired ones or wrong ones; all look the same.",
        "The token is missing, expired or not valid.",
    ),
    402: _Refusal(
        ErrorCode.LIMIT_EXCEEDED,
        "a limit of the plan; `details.limitType` says which.",
        "The plan's limit has been reached.",
        details=_LIMIT,
        required=("limitType", "suggestedAction"),
        retryable=None,
    ),
    403: _Refusal(
        ErrorCode.UNAUTHORIZED,
        "known, and not allowed; `details.reason` says why.",
        "The agent is disabled.",
        details=_REASON,
        required=("reason",),
    ),
    404: _Refusal(
        ErrorCode.NOT_FOUND,
        "it does not exist, or is someone else's; the two look the same.",
        "There is no such agent.",
    ),
    408: _Refusal(
        ErrorCode.INVALID_REQUEST,
        "the request did not arrive in time.",
        "The request did not arrive in time.",
        retryable=True,
    ),
    409: _Refusal(
        ErrorCode.CONFLICT,
        "the state does not allow it, or the idempotency key is in use.",
        "A deploy of this agent is running; wait until it has ended.",
        retryable=None,
    ),
    413: _Refusal(
        ErrorCode.PAYLOAD_TOO_LARGE,
        "the body is over its limit.",
        "The body is over 65536 bytes.",
    ),
    429: _Refusal(
        ErrorCode.RATE_LIMITED,
        "too many requests; the headers say when to try again.",
        "Too many requests; slow down.",
        headers=_RATE_LIMIT,
        retryable=True,
    ),
    500: _Refusal(ErrorCode.INTERNAL, "a failure of ours.", "Something went wrong on our side."),
    502: _Refusal(
        ErrorCode.RUNTIME_ERROR,
        "the agent failed; `details.failure` says how.",
        "The agent answered with status 500.",
        details=_RUNTIME,
        required=("failure",),
        retryable=None,
    ),
    503: _Refusal(
        ErrorCode.UNAVAILABLE,
        "a part of the system is away; try again.",
        "A part of the system is unavailable; try again shortly.",
        headers=("Retry-After",),
        retryable=True,
    ),
    504: _Refusal(
        ErrorCode.RUNTIME_ERROR,
        "the agent took too long.",
        "The agent did not answer in time.",
        details=_RUNTIME | {"failure": {"const": "timeout", "example": "timeout"}},
        required=("failure",),
        retryable=None,
    ),
}
_ALWAYS = (408, 413, 429, 500, 503)
_FRAMEWORKS = ("422", "HTTPValidationError", "ValidationError")


def refusals(*codes: ErrorCode) -> dict[int | str, Json]:
    """Return what a route declares as `responses`: the refusals that follow from no rule above."""
    return {HTTP_STATUS[code]: {"description": code.value} for code in codes}


def complete(document: Json) -> None:
    """Describe every response of every operation, with headers and examples."""
    components = document["components"]
    _, definitions = models_json_schema([(ErrorResponse, "serialization")], ref_template=_SCHEMA)
    components["schemas"] |= definitions["$defs"]
    components["headers"] = HEADERS
    components["responses"] = {_name(status): it.response() for status, it in REFUSALS.items()}
    for name in _FRAMEWORKS:
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(path, operation)
    add_examples(document)


def _complete(path: str, operation: Json) -> None:
    declared: Json = operation["responses"]
    declared.pop("422", None)
    for status in (*_ALWAYS, *_implied(path, operation)):
        declared.setdefault(str(status), {})
    for status, response in declared.items():
        if status.startswith("2"):
            response.setdefault("headers", {})["X-Request-Id"] = _header("X-Request-Id")
        elif "content" not in response and "$ref" not in response:
            declared[status] = {"$ref": f"#/components/responses/{_name(int(status))}"}
    operation["responses"] = dict(sorted(declared.items()))


def _implied(path: str, operation: Json) -> list[int]:
    inputs = [it for it in operation.get("parameters", ()) if it["in"] != "path"]
    queries = [it for it in inputs if it["in"] == "query"]
    bearer = any("Bearer" in name for scheme in operation.get("security", ()) for name in scheme)
    return [
        *([400] if inputs or "requestBody" in operation else []),
        *([401, 403] if bearer else []),
        *([404] if "{" in path or any(it["name"].endswith("Id") for it in queries) else []),
    ]


def _name(status: int) -> str:
    words = REFUSALS[status].code.value.title().replace("_", "")
    return {408: "RequestTimeout", 504: "RuntimeTimeout"}.get(status, words)


def _header(name: str) -> Json:
    return {"$ref": f"#/components/headers/{name}"}
