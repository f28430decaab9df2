"""The keys under which recorded answers that hold secrets are kept: AES-256-GCM.

Each text is bound to a context (whose answer it is), and opens in no other.
"""

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from webhost_kit.keys import named_keys

NONCE_BYTES = 12


@dataclass(frozen=True)
class AnswerKeys:
    """Keys by name, in their order: the first one encrypts, all of them decrypt."""

    by_name: dict[str, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str, name: str) -> "AnswerKeys":
        """Read `<name>:<base64url of 32 bytes>,…`. Raises ValueError."""
        return cls(dict(named_keys(text, name)))

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        """Return the text that only these keys, and only with this context, decrypt."""
        name, key = next(iter(self.by_name.items()))
        nonce = secrets.token_bytes(NONCE_BYTES)
        return b"%b:%b%b" % (name.encode(), nonce, AESGCM(key).encrypt(nonce, plain, context))

    def decrypt(self, text: bytes, context: bytes) -> bytes | None:
        """Return what was encrypted, None where its key is gone or the text is not authentic."""
        name, _, sealed = text.partition(b":")
        key = self.by_name.get(name.decode(errors="replace"))
        if key is None:
            return None
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            return None
