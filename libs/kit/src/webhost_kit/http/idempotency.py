"""The form of the header `Idempotency-Key`, the same at every service that takes one."""

import re

from webhost_kit.errors import InvalidRequest

HEADER = "Idempotency-Key"
KEY_PATTERN = r"^[\x21-\x7e]{1,200}$"

_KEY = re.compile(KEY_PATTERN)


def check_key(key: str) -> None:
    """Raise InvalidRequest where the header's value is not of the form."""
    if not _KEY.fullmatch(key):
        raise InvalidRequest.at([HEADER], "Must be 1 to 200 visible ASCII characters.")
