"""What goes wrong with a call to a Worker, and what its caller is told of it.

Emits: RuntimeFailed, or a subclass that says what the gateway may do. What a Worker answered is
quoted in part, without what looks like a secret.
"""

from typing import Any, Literal, get_args

import msgspec
from prometheus_client import Counter
from webhost_kit.errors import Fault, RuntimeFailed
from webhost_kit.process.observability import redact_text

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a Worker's JSON can raise; the last if it is nested too deeply."""

CLOUDFLARES = range(520, 531)
"""Statuses that Cloudflare itself answers with where it reaches no Worker; no front has them."""
SNIPPET_CHARS = 500
SNIPPET_BYTES = 4096

Failure = Literal[
    "network_error", "timeout", "upstream_status", "invalid_response", "session_expired"
]

_failures = Counter(
    "webhost_gateway_worker_failures_total",
    "Calls that failed at their Worker, by `details.failure`; the fault is `ours` where the way "
    "there is broken: no connection, one that ends before anything answers, or a 52x of "
    "Cloudflare's own",
    ["failure", "fault"],
)
for _failure in get_args(Failure):
    _failures.labels(_failure, "others")
for _failure in "network_error", "timeout", "upstream_status":
    _failures.labels(_failure, "ours")


class NotSent(RuntimeFailed):
    """The connection was not made: no byte of the request was written."""


class HeldUp(RuntimeFailed):
    """Time ran out, and not for want of the agent's answer."""


class WorkerProblem(msgspec.Struct, frozen=True):
    """How the front describes a failure."""

    code: str = ""
    message: str = ""
    retryable: bool | None = None


class WorkerProblemBody(msgspec.Struct, frozen=True):
    """The body of a Worker's failure, and the data of its `error` event."""

    error: WorkerProblem


def failed(
    failure: Failure,
    message: str,
    host: str,
    *,
    status: int | None = None,
    body: bytes = b"",
    retryable: bool | None = None,
    kind: type[RuntimeFailed] = RuntimeFailed,
    fault: Fault = "others",
) -> RuntimeFailed:
    """Return the problem to report to the caller for a failure of the data plane."""
    # Where nothing could be sent, no code of a user's has had a part in it.
    _failures.labels(failure, "ours" if issubclass(kind, NotSent) else fault).inc()
    details: dict[str, Any] = {"failure": failure, "invokeHost": host}
    if status is not None:
        details["upstreamStatus"] = status
    if body:
        text = redact_text(body[:SNIPPET_BYTES].decode("utf-8", "replace"))
        details["upstreamBodySnippet"] = text[:SNIPPET_CHARS]
    if retryable is None:
        retryable = failure in ("network_error", "timeout")
    status_of_ours = 504 if failure == "timeout" else None
    return kind(message, details=details, retryable=retryable, status=status_of_ours)


def reported(status: int, body: bytes, host: str) -> RuntimeFailed:
    """Return the problem for a failure that the Worker itself described."""
    try:
        problem = msgspec.json.decode(body, type=WorkerProblemBody).error
    except UNREADABLE:
        problem = WorkerProblem()
    if problem.code == "SESSION_EXPIRED":
        message = "The session does not exist or has expired."
        return failed("session_expired", message, host, status=status)
    retryable = problem.retryable
    if retryable is None:
        retryable = status == 429 or status >= 500
    return failed(
        "upstream_status",
        "The agent failed.",
        host,
        status=status,
        body=body,
        retryable=retryable,
        fault="ours" if status in CLOUDFLARES else "others",
    )


def timed_out(host: str, kind: type[RuntimeFailed]) -> RuntimeFailed:
    """Return the problem for an agent that took too long."""
    return failed("timeout", "The agent did not answer in time.", host, kind=kind)
