"""What a provider lists: scripts and routes, as reconciliation and removal see them. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedScript:
    """A script of this installation, with its tags."""

    name: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class ListedRoute:
    """A route of the zone, whoever's it is."""

    id: str
    pattern: str
    script: str | None
