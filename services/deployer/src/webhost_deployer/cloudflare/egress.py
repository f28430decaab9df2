"""What agents may reach on the Internet, in the words of the outbound Worker. Pure."""

from typing import Annotated

import msgspec

_HOST = r"[a-z0-9-]+(\.[a-z0-9-]+)*"
Entry = Annotated[
    str,
    msgspec.Meta(pattern=rf"^(\*|\*\.{_HOST}|({_HOST}|\[[0-9a-f:]+\])(:[0-9]{{1,5}})?)$"),
]
"""A host, `host:port`, `*.domain` for all below it, or `*` for all public hosts."""


class Egress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What agents may reach: `agents`, by agent id, or the `default` for all others.

    A private address is reached only where it is named, with its port unless it is the scheme's.
    """

    default: tuple[Entry, ...] = ("*",)
    agents: dict[str, tuple[Entry, ...]] = {}


def parse(value: str) -> Egress:
    """Return the rules of a setting's JSON. Raises ValueError."""
    try:
        return msgspec.json.decode(value, type=Egress)
    except msgspec.DecodeError as error:
        raise ValueError(f"AGENT_EGRESS: {error}") from error
