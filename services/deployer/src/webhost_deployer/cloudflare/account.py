"""Everything that one installation has at Cloudflare, in the account and in dispatch namespaces."""

from collections.abc import Sequence

from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.namespaces import UserWorkers


class Account:
    """What reconciliation sees and removes. All methods raise ProviderError."""

    def __init__(self, api: CloudflareApi, namespaces: Sequence[UserWorkers]) -> None:
        self._api = api
        self._namespaces = {user_workers.namespace: user_workers for user_workers in namespaces}

    async def list_scripts(self) -> list[ListedScript]:
        """Return all scripts with this installation's tag."""
        found = await self._api.list_scripts()
        for user_workers in self._namespaces.values():
            found += await user_workers.list()
        return found

    async def list_routes(self) -> list[ListedRoute]:
        """Return the zone's routes, others' too; none where there is no zone."""
        return await self._api.list_routes()

    async def script_exists(self, name: str) -> bool:
        """Say whether the account has a script of this name, of this installation or not."""
        return await self._api.script_exists(name)

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed; it may be gone already."""
        if script.namespace is None:
            await self._api.delete_script(script)
        else:
            await self._namespaces[script.namespace].delete(script.name)

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed; it may be gone already."""
        await self._api.delete_route(route)
