"""Correlation ids, and the error envelope of a Problem, the same for every endpoint."""

import re
import secrets

import msgspec
from prometheus_client import Counter
from webhost_contracts import api_keys
from webhost_contracts.errors import ErrorBody, ErrorCode, ErrorEnvelope

from webhost_kit.errors import BadToken, LimitExceeded, Problem, RateLimited
from webhost_kit.process.trace_context import parse

REQUEST_ID_HEADER = "X-Request-Id"
JSON_TYPE = "application/json"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_VALUE = re.compile(r"Invalid enum value .*", re.DOTALL)
_answered = Counter(
    "webhost_http_problems_total",
    "Requests answered with an error, by its code; the fault is `ours` where a part of the system "
    "is away, overloaded or defective, else `others`: the sender's, the agent's, or of what is not "
    "configured",
    ["code", "fault"],
)
for _code in ErrorCode:
    _answered.labels(_code, "others")
for _code in ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE:
    _answered.labels(_code, "ours")
_limited = Counter(
    "webhost_http_rate_limited_total",
    "Requests refused with RATE_LIMITED, by the policy that the RateLimit headers name",
    ["policy"],
)
_over_limit = Counter(
    "webhost_http_limit_exceeded_total",
    "Requests refused with LIMIT_EXCEEDED, by the limit of the plan (`details.limitType`)",
    ["limit"],
)


def request_id_from(value: str | None) -> str:
    """Keep a valid request id of the caller's, or make one. It is stored and shown: no API key."""
    if value is not None and _REQUEST_ID.fullmatch(value) and not api_keys.in_text(value):
        return value
    return f"req_{secrets.token_hex(12)}"


def without_value(message: str) -> str:
    """Return what msgspec says of a wrong value, without the value: that may be anybody's text."""
    return _VALUE.sub("Invalid enum value", message)


def traceparent_from(value: str | None) -> str | None:
    """Keep a usable trace context of the caller's, as it was."""
    return value if parse(value) else None


def envelope(problem: Problem, request_id: str) -> ErrorEnvelope:
    """Return the error envelope that the caller gets."""
    _answered.labels(problem.code, problem.fault).inc()
    if isinstance(problem, RateLimited):
        _limited.labels(problem.policy).inc()
    elif isinstance(problem, LimitExceeded):
        _over_limit.labels(problem.details.get("limitType", "")).inc()
    return uncounted(problem, request_id)


def uncounted(problem: Problem, request_id: str) -> ErrorEnvelope:
    """Return the same envelope, to be kept rather than answered."""
    return ErrorEnvelope(
        error=ErrorBody(
            code=problem.code,
            message=problem.message,
            retryable=problem.retryable,
            details=problem.details,
            request_id=request_id,
        )
    )


def body(problem: Problem, request_id: str) -> bytes:
    """Return the error envelope as JSON."""
    return msgspec.json.encode(envelope(problem, request_id))


def headers(problem: Problem) -> dict[str, str]:
    """Return the headers that go with the problem, the request id aside."""
    if isinstance(problem, BadToken):
        return {"WWW-Authenticate": "Bearer"}
    if problem.retry_after_s is None:
        return {}
    found = {"Retry-After": str(problem.retry_after_s)}
    if isinstance(problem, RateLimited):
        found["RateLimit"] = f'"{problem.policy}";r=0;t={problem.wait_s}'
        found["RateLimit-Policy"] = f'"{problem.policy}";q={problem.limit};w={problem.window_s}'
    return found


def internal() -> Problem:
    """Return the problem for an unexpected failure; it reveals nothing internal."""
    return Problem("Something went wrong on our side.", fault="ours")
