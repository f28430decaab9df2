"""Keys: how each is written in the environment, and what is derived from them.

Nothing derived is ever stored; telemetry keys that were used lately are remembered.
"""

import base64
import re
from dataclasses import dataclass, field

from cachetools import LRUCache
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.signing import SigningKey
from webhost_contracts.signatures import signature_header, signed_bytes

KEY_BYTES = 32
MOST_REMEMBERED = 4_096
"""Whoever names made-up deployments evicts keys, and costs no more than deriving them again."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


@dataclass(frozen=True)
class MasterKeys:
    """Versioned telemetry master keys; the highest version is the one for new deployments."""

    by_version: dict[int, bytes] = field(repr=False)
    _derived: LRUCache[tuple[int, str, int], bytes] = field(
        default_factory=lambda: LRUCache(MOST_REMEMBERED), init=False, repr=False, compare=False
    )

    @classmethod
    def parse(cls, text: str) -> "MasterKeys":
        """Read `1:<base64url>,2:<base64url>`, 32 bytes each. Raises ValueError."""
        keys: dict[int, bytes] = {}
        for version, key in named_keys(text, "TELEMETRY_MASTER_KEYS"):
            if not version.isdigit():
                raise ValueError("TELEMETRY_MASTER_KEYS: a version must be a number")
            keys[int(version)] = key
        return cls(keys)

    @property
    def newest(self) -> int:
        """Return the version that new deployments get."""
        return max(self.by_version)

    def telemetry_key(self, version: int, deployment_id: str, generation: int) -> bytes | None:
        """Return a deployment's 32-byte key (HKDF-SHA256), None for a version not held here."""
        master = self.by_version.get(version)
        if master is None:
            return None
        name = (version, deployment_id, generation)
        derived = self._derived.get(name)
        if derived is None:
            info = f"webhost telemetry/1 {deployment_id} {generation}".encode()
            hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info)
            derived = self._derived[name] = hkdf.derive(master)
        return derived


@dataclass(frozen=True)
class Signer:
    """An Ed25519 private key and the name under which Workers know its public half.

    libsodium's, which signs in half of OpenSSL's time: a call is signed while its caller waits.
    """

    key_id: str
    private_key: SigningKey = field(repr=False)

    def header(self, timestamp_ms: int, audience: str, body: bytes) -> str:
        """Return the signature header for this body to this audience."""
        signed = self.private_key.sign(signed_bytes(timestamp_ms, audience, body))
        return signature_header(timestamp_ms, self.key_id, signed.signature)


def parse_signers(text: str, name: str) -> tuple[Signer, ...]:
    """Read `<kid>:<base64url seed>,…`; the first one signs. Raises ValueError."""
    return tuple(Signer(key_id, SigningKey(seed)) for key_id, seed in named_keys(text, name))


def parse_public_keys(text: str, name: str) -> dict[str, str]:
    """Read `<kid>:<base64url>,…` into what a Worker is given. Raises ValueError."""
    return {key_id: base64url(key) for key_id, key in named_keys(text, name)}


def parse_symmetric_keys(text: str, name: str) -> dict[str, bytes]:
    """Read `<kid>:<base64url>,…`, 32 bytes each; the first one is for what is new.

    Raises ValueError.
    """
    named = named_keys(text, name)
    keys = dict(named)
    if len(keys) != len(named):
        raise ValueError(f"{name} names a key twice")
    return keys


def parse_shared_secrets(text: str, name: str) -> dict[str, tuple[bytes, ...]]:
    """Read `<source>:<base64url>,…`, at least 32 bytes each, with several of one source.

    Raises ValueError.
    """
    secrets: dict[str, tuple[bytes, ...]] = {}
    for part in text.split(","):
        source, _, encoded = part.strip().partition(":")
        unpadded = encoded.rstrip("=")
        if not source or not _BASE64URL.fullmatch(encoded) or len(unpadded) % 4 == 1:
            raise ValueError(f"{name} must be <source>:<base64url>, …")
        secret = base64.urlsafe_b64decode(unpadded + "=" * (-len(unpadded) % 4))
        if len(secret) < KEY_BYTES:
            raise ValueError(f"{name}: a secret must have at least {KEY_BYTES} bytes")
        secrets[source] = (*secrets.get(source, ()), secret)
    return secrets


def public_keys(signers: tuple[Signer, ...]) -> dict[str, str]:
    """Return the public keys by key id, base64url, as a Worker gets them."""
    return {signer.key_id: base64url(bytes(signer.private_key.verify_key)) for signer in signers}


def base64url(value: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def named_keys(text: str, name: str) -> list[tuple[str, bytes]]:
    """Read `<name>:<base64url of 32 bytes>,…`; `name` is the variable's. Raises ValueError."""
    keys: list[tuple[str, bytes]] = []
    for part in text.split(","):
        key_id, _, encoded = part.strip().partition(":")
        try:
            key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except ValueError:
            key = b""
        if not key_id or len(key) != KEY_BYTES:
            raise ValueError(f"{name} must be <name>:<base64url of {KEY_BYTES} bytes>, …")
        keys.append((key_id, key))
    return keys
