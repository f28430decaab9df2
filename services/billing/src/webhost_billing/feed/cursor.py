"""Pure: cursors of the feed, opaque to whoever keeps them.

A cursor is a place in each partition: how many of its entries were read, and a mark of the last.
The mark finds out a feed that went another way than the one that was read, as after a restore of
everything: the entry at that place is another one then. A checksum, which the installation is a
part of, finds out what is no cursor.
"""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from webhost_contracts.subjects import PARTITIONS

UNREAD = 0
"""The mark of a place before which nothing was read, since it was removed before."""

_VERSION = 1
_LAYOUT = struct.Struct(f">B{'qI' * PARTITIONS}")
_CHECK_BYTES = 4


class NotACursor(ValueError):
    """The text is no cursor of this installation's feed."""


@dataclass(frozen=True)
class Place:
    """The number up to which a partition was read, and the mark of the entry there."""

    number: int = 0
    mark: int = UNREAD


Cursor = tuple[Place, ...]
"""A place in each partition."""


def mark_of(entry_id: str) -> int:
    """Return what a cursor keeps of the last entry that was read; never UNREAD."""
    return int.from_bytes(blake2b(entry_id.encode(), digest_size=4).digest(), "big") or 1


def encoded(cursor: Sequence[Place], installation_id: str) -> str:
    """Return the cursor as text, of `[A-Za-z0-9_-]`."""
    flat = [part for place in cursor for part in (place.number, place.mark)]
    packed = _LAYOUT.pack(_VERSION, *flat)
    checked = packed + _check(packed, installation_id)
    return base64.urlsafe_b64encode(checked).decode().rstrip("=")


def decoded(text: str, installation_id: str) -> Cursor:
    """Return the cursor that this text is. Raises NotACursor."""
    try:
        checked = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotACursor(str(error)) from error
    packed, check = checked[:-_CHECK_BYTES], checked[-_CHECK_BYTES:]
    if len(packed) != _LAYOUT.size or check != _check(packed, installation_id):
        raise NotACursor("its checksum is wrong")
    version, *flat = _LAYOUT.unpack(packed)
    if version != _VERSION:
        raise NotACursor("it is of another version")
    return tuple(Place(number, mark) for number, mark in zip(flat[::2], flat[1::2], strict=True))


def shares(available: Sequence[int], limit: int) -> list[int]:
    """Return how many entries each partition gives, of as many as it has: `limit` in all.

    Whoever has little gives it all; the others give the same.
    """
    given = [0] * len(available)
    left = limit
    smallest_first = sorted(range(len(available)), key=lambda partition: available[partition])
    for done, partition in enumerate(smallest_first):
        fair = -(-left // (len(available) - done))
        given[partition] = min(available[partition], fair)
        left -= given[partition]
    return given


def _check(packed: bytes, installation_id: str) -> bytes:
    key = blake2b(installation_id.encode(), digest_size=16).digest()
    return blake2b(packed, key=key, digest_size=_CHECK_BYTES).digest()
