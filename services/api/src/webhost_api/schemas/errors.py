"""Failures."""

from typing import Any

from webhost_api.schemas.base import Schema


class ErrorSchema(Schema):
    """A failure."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]
    request_id: str


class ErrorResponse(Schema):
    """The body of every answer that is not 2xx."""

    error: ErrorSchema
