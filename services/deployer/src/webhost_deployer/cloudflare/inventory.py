"""What a Cloudflare account holds: scripts and routes, as reconciliation and removal see them."""

from dataclasses import dataclass
from typing import Protocol


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


class Inventory(Protocol):
    """The account's scripts and the zone's routes. All methods raise ProviderError."""

    async def list_scripts(self) -> list[ListedScript]:
        """Return the installation's scripts, its own and user Workers among them."""
        ...

    async def list_routes(self) -> list[ListedRoute]:
        """Return the zone's routes, others' too; none where there is no zone."""
        ...

    async def script_exists(self, name: str) -> bool:
        """Say whether there is a script of this name, of this installation or not."""
        ...

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed; it may be gone already."""
        ...

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed; it may be gone already."""
        ...
