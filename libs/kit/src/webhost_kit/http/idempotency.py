"""The form of the header `Idempotency-Key`, the same at every service that takes one."""

import re
from collections.abc import Sequence

from webhost_contracts import api_keys

from webhost_kit.errors import InvalidRequest

HEADER = "Idempotency-Key"
KEY_PATTERN = r"^[\x21-\x7e]{1,200}$"

_KEY = re.compile(KEY_PATTERN)


def check_key(key: str) -> None:
    """Raise InvalidRequest where the header's value is not of the form, or holds an API key."""
    if not _KEY.fullmatch(key):
        raise InvalidRequest.at([HEADER], "Must be 1 to 200 visible ASCII characters.")
    check_no_secret(key, [HEADER])


def check_no_secret(key: str, path: Sequence[str]) -> None:
    """Raise InvalidRequest where an idempotency key, which is stored as it is, holds an API key."""
    if api_keys.in_text(key):
        raise InvalidRequest.at(path, "Must not hold an API key; send that as the bearer token.")
