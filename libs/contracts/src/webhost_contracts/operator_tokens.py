"""Operators' tokens, for programs that use `/v1/operator/…`: how one is written and recognised.

A token is `who_` and 256 random bits in hex. Whoever checks it knows its SHA-256 alone.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

SECRET_BYTES = 32

_TOKEN = re.compile(r"who_[0-9a-f]{64}")
_NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64}):([0-9a-f]{64})")


def token_of(secret: bytes) -> str:
    """Return the token as its operator gets it. Raises ValueError for another length."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret must be {SECRET_BYTES} bytes, got {len(secret)}")
    return f"who_{secret.hex()}"


def hash_of(token: str) -> str:
    """Return what is configured of a token, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


class OperatorTokens:
    """The tokens that are good, by their hashes; an operator may have several."""

    def __init__(self, hashes: Sequence[tuple[str, str]]) -> None:
        self._hashes = [(operator, known.encode()) for operator, known in hashes]

    @classmethod
    def parse(cls, values: Sequence[str]) -> "OperatorTokens":
        """Return the tokens of `<operator>:<SHA-256 in hex>` each. Raises ValueError."""
        found: list[tuple[str, str]] = []
        for place, value in enumerate(values, 1):
            named = _NAMED.fullmatch(value)
            if named is None:
                # Not repeated: it may be the token itself.
                raise ValueError(f"entry {place} is not <operator>:<SHA-256 of the token in hex>")
            found.append((named[1], named[2]))
        return cls(found)

    def operator_of(self, token: str) -> str | None:
        """Return whose token this is, None where it is nobody's; each takes the same time."""
        if _TOKEN.fullmatch(token) is None:
            return None
        presented, found = hash_of(token).encode(), None
        for operator, known in self._hashes:
            if hmac.compare_digest(presented, known):
                found = operator
        return found
