"""Secrets: which are declared, and which have a value. Values never go out."""

from webhost_api.schemas.base import OptionalInt, Schema


class SecretSchema(Schema):
    """A declared secret, and when its value was set."""

    key: str
    is_set: bool
    updated_at_ms: OptionalInt = None


class SecretsResponse(Schema):
    """All of an agent's declared secrets, in the order of their declaration."""

    secrets: list[SecretSchema]
