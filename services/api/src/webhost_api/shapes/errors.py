"""Failures."""

from typing import Any

from webhost_api.shapes.base import Shape


class ErrorShape(Shape):
    """A failure."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]
    request_id: str


class ErrorAnswer(Shape):
    """The body of every answer that is not 2xx."""

    error: ErrorShape
