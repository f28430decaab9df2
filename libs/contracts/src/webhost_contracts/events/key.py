"""Facts about a user's API keys, stated by the api. No secret is in them, only its SHA-256."""

from webhost_contracts.api_keys import KeyLimits
from webhost_contracts.events.base import Event


class KeyCreated(Event, frozen=True, kw_only=True, tag="key.created.v1"):
    """A user made an API key. Without `agent_ids` it is for all agents."""

    name: str
    scopes: tuple[str, ...]
    secret_hash: str
    agent_ids: tuple[str, ...] | None = None
    expires_at_ms: int | None = None
    limits: KeyLimits | None = None


class KeyRotated(Event, frozen=True, kw_only=True, tag="key.rotated.v1"):
    """The key has a new secret. The one before is accepted until `previous_expires_at_ms`, any
    earlier one no longer.
    """

    secret_hash: str
    previous_expires_at_ms: int


class KeyRevoked(Event, frozen=True, kw_only=True, tag="key.revoked.v1"):
    """No secret of the key is accepted any more."""
