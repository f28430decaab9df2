"""Who may call for a user: trusted back ends, by a signature over the body. Pure.

Guarantees: missing or bad credentials of any kind look the same; nothing of a body is parsed before
its signature was checked. The time is a header that nothing signs: what keeps a call from being
repeated is the key in the body, in the idempotency ledger.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from webhost_contracts.signatures import (
    DELEGATION_SIGNATURE_HEADER,
    DELEGATION_SOURCE_HEADER,
    DELEGATION_TIMESTAMP_HEADER,
    delegation_signature_matches,
)
from webhost_kit.errors import Unauthenticated
from webhost_kit.keys import parse_shared_secrets

WINDOW_MS = 5 * 60 * 1000
"""How far the sender's clock may be from ours, to either side."""

_SOURCE = DELEGATION_SOURCE_HEADER.lower().encode()
_TIMESTAMP = DELEGATION_TIMESTAMP_HEADER.lower().encode()
_SIGNATURE = DELEGATION_SIGNATURE_HEADER.lower().encode()
_MILLISECONDS = re.compile(rb"[0-9]{1,15}")


@dataclass(frozen=True)
class Signed:
    """What a request says of its sender, its signature not checked yet."""

    source: str
    signature: bytes
    secrets: tuple[bytes, ...] = field(repr=False)

    def check(self, body: bytes) -> None:
        """Raise Unauthenticated where none of the source's secrets signed this body."""
        # All of them, so that the time does not say which one it was.
        matches = [delegation_signature_matches(s, body, self.signature) for s in self.secrets]
        if not any(matches):
            raise _refusal()


@dataclass(frozen=True)
class Sources:
    """The back ends that may delegate, with their secrets: the allow-list. It may be empty."""

    secrets: dict[str, tuple[bytes, ...]] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Sources":
        """Read DELEGATION_SECRETS. Raises ValueError."""
        return cls(parse_shared_secrets(text, "DELEGATION_SECRETS") if text else {})

    def signed(self, headers: Mapping[bytes, bytes], at_ms: int) -> Signed:
        """Return what the headers say. Raises Unauthenticated."""
        source = headers.get(_SOURCE, b"").decode("latin-1")
        secrets = self.secrets.get(source)
        stated = headers.get(_TIMESTAMP, b"")
        signature = headers.get(_SIGNATURE)
        if secrets is None or signature is None or not _MILLISECONDS.fullmatch(stated):
            raise _refusal()
        if abs(int(stated) - at_ms) > WINDOW_MS:
            raise _refusal()
        return Signed(source, signature, secrets)


def _refusal() -> Unauthenticated:
    return Unauthenticated("The delegation's credentials are missing, out of date or not valid.")
