"""API keys: how one is written, how it is recognised, and what it allows.

A key is `whs_<id>_<secret>_<crc32>`: the 26 characters of its id behind `key_`, the secret's 256
random bits in hex, and the checksum of all before it in hex. A mistyped key fails the checksum,
without a look-up. Only the SHA-256 of the secret is ever stored.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Collection
from math import inf
from typing import Literal, Protocol

import msgspec

from webhost_contracts import ids
from webhost_contracts.periods import day_key, period_key
from webhost_contracts.wire import Wire

SECRET_BYTES = 32
PREFIX = "whs_"

KeyScope = Literal["invoke", "read", "deploy", "secrets", "admin"]
"""`admin` includes all others; making, rotating and revoking keys is in none."""
SCOPES: tuple[KeyScope, ...] = ("invoke", "read", "deploy", "secrets", "admin")

_SECRET = re.compile(rf"{PREFIX}[A-Za-z0-9]+_[0-9A-Fa-f]{{16,}}")
_TOKEN = re.compile(r"whs_([0-9a-z]{26})_([0-9a-f]{64})_([0-9a-f]{8})")


class KeyLimits(Wire, frozen=True, kw_only=True):
    """How many requests a key may make in each day or calendar month, in UTC."""

    requests: int
    period: Literal["day", "month"]

    def period_key(self, at_ms: int) -> str:
        """Return the period of this instant: `YYYY-MM-DD` or `YYYY-MM`."""
        return day_key(at_ms) if self.period == "day" else period_key(at_ms)


class Presented(msgspec.Struct, frozen=True):
    """A well-formed key that somebody sent: which one it claims to be, and its secret's hash."""

    key_id: str
    secret_hash: str

    def matches(self, secret_hash: str) -> bool:
        """Compare with a stored hash, in constant time."""
        return hmac.compare_digest(self.secret_hash.encode(), secret_hash.encode())


class StoredKey(Protocol):
    """What is stored of a key's secrets and its end, wherever it is stored.

    The key's own end is `expires_at_ms`, that of the secret before its last rotation
    `previous_expires_at_ms`.
    """

    @property
    def secret_hash(self) -> str: ...
    @property
    def previous_hash(self) -> str | None: ...
    @property
    def previous_expires_at_ms(self) -> int | None: ...
    @property
    def expires_at_ms(self) -> int | None: ...
    @property
    def revoked_at_ms(self) -> int | None: ...


def good_until_ms(key: StoredKey, presented: Presented) -> float:
    """Return until when the secret that was presented is good: 0 for never, or infinity."""
    if key.revoked_at_ms is not None:
        return 0
    ends_ms = inf if key.expires_at_ms is None else key.expires_at_ms
    if presented.matches(key.secret_hash):
        return ends_ms
    if key.previous_hash is not None and presented.matches(key.previous_hash):
        return min(ends_ms, key.previous_expires_at_ms or 0)
    return 0


def token_of(key_id: str, secret: bytes) -> str:
    """Return the key as its user gets it."""
    text = f"{PREFIX}{ids.suffix(key_id)}_{secret.hex()}"
    return f"{text}_{_checksum(text)}"


def hash_of(secret: bytes) -> str:
    """Return what is stored of a secret, in hex."""
    return hashlib.sha256(secret).hexdigest()


def is_key(token: str) -> bool:
    """Say whether a bearer token is meant to be an API key, well-formed or not."""
    return token.startswith(PREFIX)


def in_text(text: str) -> bool:
    """Say whether a text holds what may be an API key, so that it must not be kept or repeated."""
    return PREFIX in text and _SECRET.search(text) is not None


def parse(token: str) -> Presented | None:
    """Return what a token claims, None where it is not a well-formed key."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    suffix, secret, checksum = found.groups()
    if checksum != _checksum(token.rpartition("_")[0]):
        return None
    return Presented(f"{ids.KEY}_{suffix}", hash_of(bytes.fromhex(secret)))


def allows(scopes: Collection[str], scope: KeyScope) -> bool:
    """Say whether a key with these scopes has this one."""
    return scope in scopes or "admin" in scopes


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
