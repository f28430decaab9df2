"""Opaque, prefixed identifiers.

All but the user's are a TypeID over a version 7 UUID, so that they sort by the time at which
they were made. The user's is derived from issuer and subject, so that two simultaneous first
requests make one user.
"""

import hashlib

from typeid import TypeID
from typeid.errors import TypeIDException
from uuid_utils import UUID

AGENT = "agt"
DEPLOYMENT = "dep"
INVOCATION = "inv"
EVENT = "evt"
COMMAND = "cmd"
UPLOAD = "upl"
USER = "usr"
KEY = "key"
SECRETS = "sec"

ENTROPY_BYTES = 10
"""How many random bytes `new_id` takes."""


def new_id(prefix: str, now_ms: int, entropy: bytes) -> str:
    """Return `<prefix>_<26 characters>`, sortable by `now_ms` (Unix milliseconds).

    The same time and the same 10 bytes of entropy give the same id. Raises ValueError when the
    entropy has another length.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy must be {ENTROPY_BYTES} bytes, got {len(entropy)}")
    value = (now_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(entropy, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return _typed(prefix, value)


def made_at_ms(identifier: str) -> int | None:
    """Return the time that is in an id of `new_id`, None where it is not well-formed."""
    try:
        return int(TypeID.from_string(identifier).uuid.int) >> 80
    except TypeIDException:
        return None


def user_id(issuer: str, subject: str) -> str:
    """Return the id of the user whom `issuer` calls `subject`."""
    digest = hashlib.sha256(f"{len(issuer)}:{issuer}{subject}".encode()).digest()
    return _typed(USER, int.from_bytes(digest[:16], "big"))


def secrets_of(agent_id: str) -> str:
    """Return the id of the aggregate that is all secrets of this agent."""
    return f"{SECRETS}_{suffix(agent_id)}"


def period_of(user_id: str, period_key: str) -> str:
    """Return the id of the aggregate that is this user's usage in this period."""
    return f"{user_id}.{period_key}"


def suffix(identifier: str) -> str:
    """Return what follows the prefix: 26 characters of `[0-9a-z]`."""
    return identifier.rpartition("_")[2]


def has_prefix(identifier: str, prefix: str) -> bool:
    """Say whether `identifier` is a well-formed id of this kind."""
    head, _, tail = identifier.rpartition("_")
    return head == prefix and len(tail) == 26 and tail.isascii() and tail.isalnum()


def _typed(prefix: str, value: int) -> str:
    return str(TypeID.from_uuid(UUID(int=value), prefix))  # pyright: ignore[reportUnknownArgumentType]
