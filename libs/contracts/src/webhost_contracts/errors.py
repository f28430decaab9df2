"""The error contract: the codes, their HTTP status, and the envelope that carries them."""

from enum import StrEnum
from typing import Any

import msgspec

from webhost_contracts.wire import Wire


class ErrorCode(StrEnum):
    """The codes of the contract."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    UNAUTHORIZED = "UNAUTHORIZED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CONFLICT = "CONFLICT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    INTERNAL = "INTERNAL"
    DEPLOYMENT_FAILED = "DEPLOYMENT_FAILED"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    UNAVAILABLE = "UNAVAILABLE"


HTTP_STATUS: dict[ErrorCode, int] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.LIMIT_EXCEEDED: 402,
    ErrorCode.UNAUTHORIZED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.CONFLICT: 409,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.RUNTIME_ERROR: 502,
    ErrorCode.UNAVAILABLE: 503,
}


class DeploymentError(Wire, frozen=True, kw_only=True):
    """Why a deployment failed, sanitized: the step, the endpoint, the provider's message."""

    step: str
    message: str
    endpoint: str | None = None
    provider_code: str | None = None
    provider_message: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The object under `error` in every non-2xx body."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]
    request_id: str


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """Every non-2xx body."""

    error: ErrorBody
