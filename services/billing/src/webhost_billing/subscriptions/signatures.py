"""Pure: what is signed around a purchase. A delivery by the provider, with a secret that it shares
with us; the user's id in a checkout by us, since buyers can edit what a link carries.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

USER_ID = "user_id"
SIGNATURE = "user_signature"
"""The custom data of a checkout: text by name. Every delivery about the purchase repeats it."""


def delivery_signature(secret: bytes, body: bytes) -> str:
    """Return what the provider's `X-Signature` is of this raw body."""
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def is_delivery(secrets: Sequence[bytes], body: bytes, signature: str) -> bool:
    """Say, in constant time, whether one of the secrets signed this raw body."""
    given = signature.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(delivery_signature(secret, body).encode(), given) for secret in secrets
    ]
    return any(matches)


def custom_data(keys: Mapping[str, bytes], user_id: str) -> dict[str, str]:
    """Return what a checkout carries so that its purchase is this user's."""
    key_id = next(iter(keys))
    return {USER_ID: user_id, SIGNATURE: f"{key_id}.{_of_user(keys[key_id], user_id)}"}


def user_of(keys: Mapping[str, bytes], custom: Mapping[str, Any]) -> str | None:
    """Return the user whom custom data names with our signature, None for any other."""
    user_id, signature = custom.get(USER_ID), custom.get(SIGNATURE)
    if not isinstance(user_id, str) or not isinstance(signature, str):
        return None
    key_id, _, given = signature.rpartition(".")
    key = keys.get(key_id)
    if key is None:
        return None
    expected = _of_user(key, user_id).encode()
    return user_id if hmac.compare_digest(expected, given.encode("utf-8", "replace")) else None


def _of_user(key: bytes, user_id: str) -> str:
    message = f"webhost checkout/1 {user_id}".encode("utf-8", "replace")
    return hmac.new(key, message, hashlib.sha256).hexdigest()
