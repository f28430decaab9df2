"""What the deployer needs of a runtime provider, and how a provider says no."""

from typing import Protocol

from webhost_contracts.artifacts import Bundle

from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.model import Deployment


class ProviderError(Exception):
    """A call to a provider failed.

    `endpoint` is what was asked, `code` and `message` are the provider's own words where it
    said any, and `transient` says whether the same call may succeed later.
    """

    def __init__(self, endpoint: str, code: str | None, message: str, *, transient: bool) -> None:
        super().__init__(f"{endpoint}: {message}")
        self.endpoint = endpoint
        self.code = code
        self.message = message
        self.transient = transient


class Provider(Protocol):
    """A place where deployments run.

    Every method may be repeated after any outcome, an unknown one included. All raise
    ProviderError.
    """

    def worker_name(self, deployment: Deployment) -> str:
        """Return the provider's name for the deployment."""
        ...

    def invoke_url(self, deployment: Deployment) -> str:
        """Return the address at which the deployment is invoked."""
        ...

    async def ensure_session_store(self) -> None:
        """Make the installation's session store exist and be current."""
        ...

    async def upload(self, deployment: Deployment, bundle: Bundle) -> None:
        """Put the deployment's code and bindings there."""
        ...

    async def route(self, deployment: Deployment) -> None:
        """Make the deployment reachable at its address."""
        ...

    async def probe(self, deployment: Deployment) -> None:
        """See that this deployment answers at its address."""
        ...

    async def remove_route(self, deployment: Deployment) -> None:
        """Make the deployment unreachable. One that has no route is left as it is."""
        ...

    async def remove_script(self, deployment: Deployment) -> None:
        """Remove the deployment's code. One that is gone is left as it is."""
        ...

    async def purge_sessions(self, agent_id: str) -> None:
        """Remove all sessions of an agent, for good."""
        ...


class Inventory(Protocol):
    """What a provider holds for this installation. All methods raise ProviderError."""

    async def list_scripts(self) -> list[ListedScript]:
        """Return the installation's scripts, the session store among them."""
        ...

    async def list_routes(self) -> list[ListedRoute]:
        """Return the zone's routes, whoever's they are."""
        ...

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed; one that is gone is well."""
        ...

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed; one that is gone is well."""
        ...
