"""Every way in which a request or a message can fail, in one tree.

- `Problem`: what a caller is told; becomes the error envelope.
- `Permanent`: a command that no further try can handle.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from webhost_contracts.errors import HTTP_STATUS, ErrorCode

Fault = Literal["ours", "others"]


class Problem(Exception):
    """A failure that the caller is told about. The message is safe, for display."""

    code: ErrorCode = ErrorCode.INTERNAL
    retryable: bool = False
    fault: Fault = "others"
    """Whose it is, for metrics: only what is ours is an operator's to mend."""

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        status: int | None = None,
        retry_after_s: int | None = None,
        fault: Fault | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = self.fault if fault is None else fault
        self.message = message
        self.details = dict(details or {})
        self.retryable = self.retryable if retryable is None else retryable
        self.status = HTTP_STATUS[self.code] if status is None else status
        self.retry_after_s = retry_after_s

    @property
    def error_type(self) -> str:
        """Return what it is called in traces."""
        return self.code


class InvalidRequest(Problem):
    """The request is not of the required shape; `details.issues` says where."""

    code = ErrorCode.INVALID_REQUEST

    @classmethod
    def at(cls, path: Sequence[str | int], message: str) -> "InvalidRequest":
        """Return the problem with one issue."""
        return cls(message, details={"issues": [{"path": list(path), "message": message}]})


class Unauthenticated(Problem):
    """Missing, expired or bad credentials; all of them look the same."""

    code = ErrorCode.UNAUTHENTICATED


class BadToken(Unauthenticated):
    """Without a good bearer token; the answer says that one is asked for."""


class LimitExceeded(Problem):
    """A plan limit or a tier gate."""

    code = ErrorCode.LIMIT_EXCEEDED


class Unauthorized(Problem):
    """The caller is known but not allowed to do this; `details.reason` says why."""

    code = ErrorCode.UNAUTHORIZED


class AccountDisabled(Unauthorized):
    """The operator of this installation disabled the user's account."""

    def __init__(self) -> None:
        super().__init__(
            "This account is disabled; ask who runs this installation.",
            details={"reason": "account_disabled"},
        )


class NotFound(Problem):
    """It does not exist or belongs to someone else; the two are indistinguishable."""

    code = ErrorCode.NOT_FOUND


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    code = ErrorCode.METHOD_NOT_ALLOWED


class Conflict(Problem):
    """The wrong state for this request."""

    code = ErrorCode.CONFLICT


class PayloadTooLarge(Problem):
    """The body is over its limit, which is checked before the body is parsed."""

    code = ErrorCode.PAYLOAD_TOO_LARGE


class RateLimited(Problem):
    """Over a rate limit of `limit` requests in `window_s` seconds; try again in `wait_s`.

    `policy` is the limit's name, as the headers state it.
    """

    code = ErrorCode.RATE_LIMITED
    retryable = True

    def __init__(
        self,
        policy: str,
        *,
        limit: int,
        window_s: int,
        wait_s: int,
        message: str = "Too many requests; slow down.",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details, retry_after_s=wait_s)
        self.policy = policy
        self.limit = limit
        self.window_s = window_s
        self.wait_s = wait_s


class RuntimeFailed(Problem):
    """The data plane failed; `details.failure` says how."""

    code = ErrorCode.RUNTIME_ERROR

    @property
    def error_type(self) -> str:
        """Return how the data plane failed."""
        return str(self.details.get("failure", self.code))


class Unavailable(Problem):
    """A dependency is away. The same request may later succeed.

    `fault` is "others" where the sender itself is in the way, or the operator did not set it up.
    """

    code = ErrorCode.UNAVAILABLE
    retryable = True
    fault = "ours"

    def __init__(self, message: str, *, retry_after_s: int = 1, fault: Fault | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s, fault=fault)


class TooLate(Unavailable):
    """The sender of a request on the bus was told already that no reply came; nothing is done."""


class Permanent(Exception):
    """A command's handler failed, and no further try can succeed: it becomes a dead letter."""


class StreamDiverged(Exception):
    """A stream is not the one that a checkpoint was taken on.

    It was restored, lost its tail, or what follows the checkpoint was removed unread. Nothing is
    folded until an operator has decided how to proceed.
    """


class StreamMissing(Unavailable):
    """A stream is not there. It is made again within seconds, and is another one then."""


class ArtifactsAway(Unavailable):
    """The artifact store does not answer; it may later."""


class ArtifactInvalid(Exception):
    """The stored artifact is not the one that was named, and retrying will not help."""


class ArtifactMissing(ArtifactInvalid):
    """The store does not hold the artifact, or no longer."""


class CheckpointMoved(Exception):
    """Another process folded, or an operator reset the projection: read the checkpoint again."""


class VersionConflict(Exception):
    """Another decision about the same aggregate was recorded first: reload, and decide again."""
