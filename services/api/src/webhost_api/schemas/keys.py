"""API keys."""

from typing import Annotated

from pydantic import Field

from webhost_api.schemas.base import OptionalInt, Schema, is_absent


class KeyLimitsSchema(Schema):
    """How many requests a key may make in each day or month (UTC)."""

    requests: int
    period: str


class KeySchema(Schema):
    """An API key, without its secret.

    `previousExpiresAtMs` is until when the secret before the last rotation is accepted.
    """

    id: str
    user_id: str
    name: str
    scopes: list[str]
    agent_ids: Annotated[list[str] | None, Field(exclude_if=is_absent)] = None
    expires_at_ms: OptionalInt = None
    limits: Annotated[KeyLimitsSchema | None, Field(exclude_if=is_absent)] = None
    created_at_ms: int
    rotated_at_ms: OptionalInt = None
    previous_expires_at_ms: OptionalInt = None


class KeysResponse(Schema):
    """API keys that are not revoked, newest first; `nextCursor` leads on."""

    keys: list[KeySchema]
    next_cursor: str | None


class IssuedKeyResponse(Schema):
    """A key and its secret, which is shown this once: `token` is what to send as bearer token."""

    key: KeySchema
    token: str
