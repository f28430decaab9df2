"""The keys of one kind as an installation keeps them, and how each is written in a setting."""

import base64
import secrets

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from webhost_contracts.platform_keys import (
    INVOKE_PUBLIC_KEYS,
    SECRETS_PUBLIC_KEY,
    Kind,
    Phase,
    Place,
    next_id,
)
from webhost_kit.keys import base64url
from webhost_kit.sealing import public_half


class Ring(msgspec.Struct, rename="camel"):
    """32-byte seeds in base64url by key id, and how far the rotation from `old` to `new` is."""

    seeds: dict[str, str]
    old: str
    new: str | None = None
    phase: int = Phase.OLD

    def advanced(self) -> "Ring":
        """The keys one phase on; at the end only the new one is left."""
        if self.new is None:
            new = next_id(self.old)
            return Ring({**self.seeds, new: new_seed()}, self.old, new, Phase.KNOWN)
        if self.phase == Phase.KNOWN:
            return Ring(self.seeds, self.old, self.new, Phase.USED)
        return Ring({self.new: self.seeds[self.new]}, self.new)


def text_of(place: Place, kind: Kind, ring: Ring) -> str:
    """The text of a setting."""
    ids = kind.ids(place, ring.old, ring.new or ring.old, Phase(ring.phase))
    return ",".join(f"{key}:{in_setting(place.setting, ring.seeds[key])}" for key in ids)


def in_setting(setting: str, seed: str) -> str:
    """What a setting holds of a key: the seed, or its public half."""
    raw = base64.urlsafe_b64decode(seed + "=")
    if setting == INVOKE_PUBLIC_KEYS:
        public = Ed25519PrivateKey.from_private_bytes(raw).public_key()
        return base64url(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return base64url(public_half(raw)) if setting == SECRETS_PUBLIC_KEY else seed


def new_seed() -> str:
    """A new key."""
    return base64url(secrets.token_bytes(32))
