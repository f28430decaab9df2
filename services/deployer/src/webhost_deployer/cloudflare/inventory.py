"""What a Cloudflare account holds: scripts and routes, as reconciliation and removal see them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedScript:
    """A script of this installation, with its tags; in which dispatch namespace, if in one."""

    name: str
    tags: tuple[str, ...]
    namespace: str | None = None


@dataclass(frozen=True)
class ListedRoute:
    """A route of the zone, of this installation or not. Some lead to no script."""

    id: str
    pattern: str
    script: str | None
