"""The rules about API keys: command + state → facts. Pure.

Requests about a revoked key never get here: it is not found.
"""

from msgspec import Struct
from msgspec.structs import asdict
from webhost_contracts.api_keys import KeyLimits
from webhost_contracts.events import Event, KeyCreated, KeyRevoked, KeyRotated
from webhost_kit.errors import Conflict, InvalidRequest, LimitExceeded

from webhost_api.keys.model import ApiKey

MAX_LIVE_KEYS = 100
"""How many keys a user may have that are neither revoked nor expired."""


class CreateKey(Struct, frozen=True, kw_only=True):
    """A user wants a key; `secret_hash` is of the secret that was made for it."""

    name: str
    scopes: tuple[str, ...]
    secret_hash: str
    agent_ids: tuple[str, ...] | None = None
    expires_at_ms: int | None = None
    limits: KeyLimits | None = None


def create(command: CreateKey, live: int, at_ms: int) -> list[Event]:
    """Decide to make a key for a user who has `live` ones."""
    if command.expires_at_ms is not None and command.expires_at_ms <= at_ms:
        raise InvalidRequest.at(["expiresAtMs"], "Must be in the future.")
    if live >= MAX_LIVE_KEYS:
        raise LimitExceeded(
            f"You have {live} API keys, and may have {MAX_LIVE_KEYS}. Revoke one first.",
            details={
                "limitType": "keys",
                "current": live,
                "limit": MAX_LIVE_KEYS,
                "suggestedAction": "revoke",
            },
        )
    return [KeyCreated(**asdict(command))]


def rotate(key: ApiKey, secret_hash: str, overlap_ms: int, at_ms: int) -> list[Event]:
    """Decide on a new secret; the present one lives on for the overlap. CONFLICT if expired."""
    if key.has_expired(at_ms):
        raise Conflict("The key has expired; create another one.")
    return [KeyRotated(secret_hash=secret_hash, previous_expires_at_ms=at_ms + overlap_ms)]


def revoke(_key: ApiKey) -> list[Event]:
    """Decide to end the key; allowed in every state."""
    return [KeyRevoked()]
