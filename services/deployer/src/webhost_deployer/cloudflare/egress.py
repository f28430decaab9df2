"""What agents may reach on the Internet, in the words of the outbound Worker. Pure."""

from typing import Annotated

import msgspec
from webhost_contracts import ids

_HOST = r"[a-z0-9-]+(\.[a-z0-9-]+)*"
Entry = Annotated[
    str,
    msgspec.Meta(pattern=rf"^(\*|\*\.{_HOST}|({_HOST}|\[[0-9a-f:]+\])(:[0-9]{{1,5}})?)$"),
]
"""A host, at any port; `host:port`; `*.domain` for all below it; or `*` for all public hosts."""
AgentId = Annotated[str, msgspec.Meta(pattern=rf"^{ids.AGENT}_[0-9a-z]{{26}}$")]
_FORMS = (
    'AGENT_EGRESS is {"default": [ENTRY, …], "agents": {"agt_…": [ENTRY, …]}}, where an entry is a'
    " host in lower case, host:port, *.domain or *"
)


class Egress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What agents may reach: `agents`, by agent id, or the `default` for all others.

    A private address is reached only where it is named itself.
    """

    default: tuple[Entry, ...] = ("*",)
    agents: dict[AgentId, tuple[Entry, ...]] = {}


def parse(value: str) -> Egress:
    """Return the rules of a setting's JSON. Raises ValueError."""
    try:
        return msgspec.json.decode(value, type=Egress)
    except msgspec.DecodeError as error:
        where = str(error).rpartition(" - at ")[2]
        raise ValueError(f"{_FORMS}; refused at {where}") from error
