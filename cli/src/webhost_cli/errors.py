"""The errors that a command reports to its user, and its exit codes."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import msgspec
from webhost_contracts.errors import ErrorBody, ErrorCode, ErrorEnvelope


class ExitCode(IntEnum):
    """The exit codes of every command. 130 is Ctrl-C."""

    FAILURE = 1
    USAGE = 2
    NOT_SIGNED_IN = 3
    NOT_FOUND = 4
    CONFLICT = 5
    LIMIT = 6
    UNAVAILABLE = 7
    AGENT_FAILED = 8


EXIT_CODES_HELP = (
    "Exit codes: 1 failure, 2 wrong usage or request, 3 not signed in, 4 not found, 5 conflict, "
    "6 a limit, 7 unavailable, 8 the agent's code or its deployment failed. With --json, an error "
    "is one line on standard error, in the shape of the API's errors; its code is FAILURE where "
    "the API has none, and it has a requestId where the API refused."
)

_EXIT_CODES: dict[str, ExitCode] = {
    ErrorCode.INVALID_REQUEST: ExitCode.USAGE,
    ErrorCode.PAYLOAD_TOO_LARGE: ExitCode.USAGE,
    ErrorCode.UNAUTHENTICATED: ExitCode.NOT_SIGNED_IN,
    ErrorCode.NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorCode.CONFLICT: ExitCode.CONFLICT,
    ErrorCode.LIMIT_EXCEEDED: ExitCode.LIMIT,
    ErrorCode.RATE_LIMITED: ExitCode.LIMIT,
    ErrorCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    ErrorCode.DEPLOYMENT_FAILED: ExitCode.AGENT_FAILED,
    ErrorCode.RUNTIME_ERROR: ExitCode.AGENT_FAILED,
}
# The first code of an exit code is that of the command's own errors.
_OWN_CODES = {exit_code: code for code, exit_code in reversed(_EXIT_CODES.items())}


class CommandError(Exception):
    """The message is for display; the command ends with the exit code. `details` are for programs,
    which get the message's first line alone with them.
    """

    def __init__(
        self,
        message: str,
        exit_code: ExitCode = ExitCode.FAILURE,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details

    def envelope(self) -> dict[str, Any]:
        """Return the error as the API's envelope, without a request id."""
        return {
            "error": {
                "code": _OWN_CODES.get(self.exit_code, "FAILURE"),
                "message": str(self) if self.details is None else str(self).partition("\n")[0],
                "retryable": self.exit_code == ExitCode.UNAVAILABLE,
                "details": dict(self.details or {}),
            }
        }


class ApiError(CommandError):
    """The API's error envelope. `names` are what the user calls fields that issues are about."""

    def __init__(self, body: ErrorBody, names: Mapping[str, str] | None = None) -> None:
        super().__init__(_text(body, names or {}), _EXIT_CODES.get(body.code, ExitCode.FAILURE))
        self.body = body

    @property
    def lacks_scope(self) -> bool:
        """Say whether the API key may not do this, whatever else it may do."""
        return (
            self.body.code == ErrorCode.UNAUTHORIZED and self.body.details.get("reason") == "scope"
        )

    def envelope(self) -> dict[str, Any]:
        """Return the API's own envelope."""
        return {"error": msgspec.to_builtins(self.body)}

    @classmethod
    def from_response(cls, status: int, content: bytes) -> "CommandError":
        """Make the error of a non-2xx answer, also of one that is not ours."""
        try:
            return cls(msgspec.json.decode(content, type=ErrorEnvelope).error)
        except msgspec.DecodeError:
            code = ExitCode.UNAVAILABLE if status in (502, 503, 504) else ExitCode.FAILURE
            return CommandError(f"unexpected answer: HTTP {status}", code)


def _text(body: ErrorBody, names: Mapping[str, str]) -> str:
    message, issues = body.message, list[str]()
    for issue in body.details.get("issues", ()):
        place = ".".join(str(part) for part in issue.get("path", ()))
        issues.append(f"{names.get(place, place) or 'body'}: {issue.get('message')}")
    if len(issues) == 1 and issues[0].endswith(f": {message}"):
        message = issues.pop()
    lines = [f"{message} [{body.code}, request {body.request_id}]"]
    lines += [f"  {issue}" for issue in issues]
    known = {k: v for k, v in body.details.items() if k != "issues" and v is not None}
    lines += [f"  {name}: {value}" for name, value in known.items()]
    return "\n".join(lines)
