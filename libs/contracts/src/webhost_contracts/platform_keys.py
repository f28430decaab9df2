"""Which settings hold the platform's keys, and in which steps one key is replaced by another. Pure.

A setting is a list of keys, each with an id that ends in its number: `invoke-1`, `invoke-2`, or for
telemetry master keys the number alone. A rotation has three steps, the same for every kind: whoever
verifies or opens gets to know the new key; whoever signs or seals uses it; the old one is dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

Ids = tuple[str, ...]
"""The ids of a setting's keys, in its order."""


class Phase(IntEnum):
    """How far a rotation is: the old key alone, the new one known, used, alone."""

    OLD = 0
    KNOWN = 1
    USED = 2
    NEW = 3


@dataclass(frozen=True, order=True)
class Place:
    """One setting of one service."""

    service: str
    setting: str

    def __str__(self) -> str:
        """Return how a person reads it."""
        return f"{self.setting} of {self.service}"


@dataclass(frozen=True)
class Kind:
    """One kind of key. `lists` says by place which of the two keys it has, in order, by phase:
    `o` is the old one and `n` the new one. `first` is the id of a new installation's key.
    """

    name: str
    first: str
    lists: Mapping[Place, tuple[str, str, str, str]]

    def ids(self, place: Place, old: str, new: str, phase: Phase) -> Ids:
        """Return what a place holds in a phase."""
        return tuple(old if key == "o" else new for key in self.lists[place][phase])


TELEMETRY_MASTER_KEYS = "TELEMETRY_MASTER_KEYS"
INVOKE_PRIVATE_KEYS = "INVOKE_PRIVATE_KEYS"
INVOKE_PUBLIC_KEYS = "INVOKE_PUBLIC_KEYS"
PLATFORM_PRIVATE_KEYS = "PLATFORM_PRIVATE_KEYS"
SECRETS_PRIVATE_KEYS = "SECRETS_PRIVATE_KEYS"
SECRETS_PUBLIC_KEY = "SECRETS_PUBLIC_KEY"
SETTINGS = (
    *(TELEMETRY_MASTER_KEYS, INVOKE_PRIVATE_KEYS, INVOKE_PUBLIC_KEYS),
    *(PLATFORM_PRIVATE_KEYS, SECRETS_PRIVATE_KEYS, SECRETS_PUBLIC_KEY),
)

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "telemetry",
            "1",
            {
                Place("telemetry-ingest", TELEMETRY_MASTER_KEYS): ("o", "on", "on", "n"),
                Place("deployer", TELEMETRY_MASTER_KEYS): ("o", "o", "on", "n"),
            },
        ),
        Kind(
            "invoke",
            "invoke-1",
            {
                Place("deployer", INVOKE_PUBLIC_KEYS): ("o", "on", "on", "n"),
                Place("gateway", INVOKE_PRIVATE_KEYS): ("o", "o", "n", "n"),
            },
        ),
        Kind(
            "platform",
            "platform-1",
            {Place("deployer", PLATFORM_PRIVATE_KEYS): ("o", "on", "no", "n")},
        ),
        Kind(
            "secrets",
            "secrets-1",
            {
                Place("deployer", SECRETS_PRIVATE_KEYS): ("o", "on", "no", "n"),
                Place("api", SECRETS_PUBLIC_KEY): ("o", "o", "n", "n"),
            },
        ),
    )
}

_NUMBER = re.compile(r"(\d+)$")


def ids_of(text: str) -> Ids:
    """Return the ids of a setting's keys; nothing else of it."""
    return tuple(part.strip().partition(":")[0] for part in text.split(","))


def number_of(key_id: str) -> int:
    """Return the number that a key's id ends in, 1 where there is none."""
    found = _NUMBER.search(key_id)
    return int(found[1]) if found else 1


def next_id(key_id: str) -> str:
    """Return the id of the key that replaces this one."""
    stem = _NUMBER.sub("", key_id)
    return f"{key_id}-2" if stem == key_id else f"{stem}{number_of(key_id) + 1}"
