"""What an API key is, as a pure fold of its facts.

It is stored as a document, so a new field needs a default.
"""

from msgspec import Struct
from msgspec.structs import asdict, replace
from webhost_contracts.api_keys import KeyLimits
from webhost_contracts.events import Envelope, Event, KeyCreated, KeyRevoked, KeyRotated


class ApiKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as of its fact number `version`; 0 before the first.

    `previous_hash` is of the secret before the last rotation, accepted until
    `previous_expires_at_ms`.
    """

    id: str
    user_id: str
    version: int = 0
    name: str = ""
    scopes: tuple[str, ...] = ()
    agent_ids: tuple[str, ...] | None = None
    expires_at_ms: int | None = None
    limits: KeyLimits | None = None
    secret_hash: str = ""
    previous_hash: str | None = None
    previous_expires_at_ms: int | None = None
    created_at_ms: int = 0
    rotated_at_ms: int | None = None
    revoked_at_ms: int | None = None

    def has_expired(self, at_ms: int) -> bool:
        """Say whether the key's own time is over."""
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


def evolve(key: ApiKey, envelope: Envelope, event: Event) -> ApiKey:
    """Return the key after its next fact. Raises TypeError for any other fact."""
    at_ms = envelope.occurred_at_ms
    key = replace(key, version=key.version + 1)
    match event:
        case KeyCreated() if key.version == 1:
            return replace(key, created_at_ms=at_ms, **asdict(event))
        case KeyRotated():
            return replace(
                key,
                secret_hash=event.secret_hash,
                previous_hash=key.secret_hash,
                previous_expires_at_ms=event.previous_expires_at_ms,
                rotated_at_ms=at_ms,
            )
        case KeyRevoked():
            return replace(key, revoked_at_ms=at_ms)
        case _:
            raise TypeError(f"not the next fact of a key: {event.type_name()}")
