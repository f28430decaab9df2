"""Sealing: whoever has the public key can seal a value, and only the private key's owner opens it.

HPKE (RFC 9180) in base mode: X25519, HKDF-SHA256, AES-256-GCM. A sealed value is text,
`<key id>:<base64url>`; the same value is never sealed twice to the same text. What it is bound to
is not in it: it opens only for the user, the agent and the name that it was sealed for.
"""

import base64
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from webhost_kit.keys import base64url, named_keys

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class CannotOpen(Exception):
    """A sealed value is not what it should be, or no key here opens it. Holds nothing of it."""


@dataclass(frozen=True)
class Owner:
    """Whose value it is, and under which name."""

    user_id: str
    agent_id: str
    name: str

    @property
    def info(self) -> bytes:
        """Return what binds a sealed value to this owner; no part has a space in it."""
        return f"webhost secret/1 {self.user_id} {self.agent_id} {self.name}".encode()


@dataclass(frozen=True)
class Sealer:
    """The public key."""

    key_id: str
    public_key: X25519PublicKey

    @classmethod
    def parse(cls, text: str, name: str) -> "Sealer":
        """Read `<key id>:<base64url>`. Raises ValueError."""
        keys = named_keys(text, name)
        if len(keys) != 1:
            raise ValueError(f"{name} must be one key")
        [(key_id, key)] = keys
        return cls(key_id, X25519PublicKey.from_public_bytes(key))

    def seal(self, value: str, owner: Owner) -> str:
        """Return the value, sealed."""
        sealed = _SUITE.encrypt(value.encode(), self.public_key, info=owner.info)
        return f"{self.key_id}:{base64url(sealed)}"


@dataclass(frozen=True)
class Opener:
    """The private keys by key id; the first one is for what is sealed again."""

    private_keys: dict[str, X25519PrivateKey] = field(repr=False)

    @classmethod
    def parse(cls, text: str, name: str) -> "Opener":
        """Read `<key id>:<base64url>,…`. Raises ValueError."""
        keys = named_keys(text, name)
        return cls({key_id: X25519PrivateKey.from_private_bytes(key) for key_id, key in keys})

    @property
    def newest(self) -> str:
        """Return the first key's id."""
        return next(iter(self.private_keys))

    def reseal(self, sealed: str, owner: Owner) -> str:
        """Return the value, sealed for the first key. Raises CannotOpen."""
        value = self.open(sealed, owner)
        return Sealer(self.newest, self.private_keys[self.newest].public_key()).seal(value, owner)

    def open(self, sealed: str, owner: Owner) -> str:
        """Return the value. Raises CannotOpen."""
        key_id, _, encoded = sealed.partition(":")
        private_key = self.private_keys.get(key_id)
        if private_key is None:
            raise CannotOpen(f"no key {key_id[:40]} to open {owner.name} with")
        try:
            body = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            return _SUITE.decrypt(body, private_key, info=owner.info).decode()
        except (InvalidTag, ValueError) as error:
            raise CannotOpen(f"{owner.name} was not sealed for this") from error


def public_half(private_key: bytes) -> bytes:
    """Return the raw public key of a raw X25519 private key."""
    public = X25519PrivateKey.from_private_bytes(private_key).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
