"""What is kept of requests and answers under an idempotency key, so that the rows say nothing.

A request's fingerprint is a keyed MAC (HMAC-SHA256): without the key nobody can try what it was of.
An answer is sealed with AES-256-GCM under a key of its own, bound to the row that it belongs to.
All keys are derived (HKDF-SHA256) from RESPONSE_KEYS, and never stored; a row says which of them it
needs, so that one can be replaced by another, and goes once no row needs it any more.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from webhost_kit.keys import KEY_BYTES, parse_symmetric_keys

NONCE_BYTES = 12


class Unreadable(Exception):
    """The sealed answer was changed, belongs to another row, or its key is not held here."""


@dataclass(frozen=True)
class ResponseKeys:
    """RESPONSE_KEYS by id; the first is for what is new."""

    by_id: dict[str, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "ResponseKeys":
        """Read `<kid>:<base64url>,…`, 32 bytes each. Raises ValueError."""
        return cls(parse_symmetric_keys(text, "RESPONSE_KEYS"))

    @property
    def newest(self) -> str:
        """Return the id of the key for what is new."""
        return next(iter(self.by_id))

    def fingerprint(self, key_id: str, request: bytes) -> str | None:
        """Return the MAC of a request in hex; None for a key that is not held here."""
        if key_id not in self.by_id:
            return None
        derived = self._derived(key_id, "fingerprint")
        return hmac.new(derived, request, hashlib.sha256).hexdigest()

    def seal(self, key_id: str, row: str, answer: bytes, bound_to: bytes) -> bytes:
        """Return the answer, encrypted; it opens for this row and this binding alone."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = AESGCM(self._derived(key_id, f"response {row}"))
        return nonce + cipher.encrypt(nonce, answer, bound_to)

    def open(self, key_id: str, row: str, sealed: bytes, bound_to: bytes) -> bytes:
        """Return what was sealed. Raises Unreadable."""
        if key_id not in self.by_id:
            raise Unreadable(f"no key '{key_id}' in RESPONSE_KEYS")
        cipher = AESGCM(self._derived(key_id, f"response {row}"))
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise Unreadable("not what was sealed for this row") from error

    def _derived(self, key_id: str, purpose: str) -> bytes:
        info = f"webhost idempotency/1 {purpose}".encode()
        hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info)
        return hkdf.derive(self.by_id[key_id])
