"""Where a deployment's scripts are, and what leads to them: two ways to use one account.

On a plain account each deployment has a front of its own beside its agent script, and a route of
its own. With a dispatch namespace the agent scripts are user Workers in it, and one dispatch
Worker, with one route, is the front of all.
Guarantees: only scripts with this installation's tag are replaced or deleted, and only routes of
our pattern that lead to a script of ours are removed. A deployment stays where it began, so that
an installation can change from one layout to the other.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from webhost_contracts.artifacts import Bundle
from webhost_contracts.entitlements import Entitlements, known_tier
from webhost_contracts.invoke import Limits
from webhost_kit.keys import MasterKeys

from webhost_deployer.cloudflare import platform_scripts, scripts
from webhost_deployer.cloudflare.addresses import (
    CustomDomain,
    Routing,
    agent_script_name,
    front_name,
)
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.cloudflare.namespaces import UserWorkers
from webhost_deployer.cloudflare.scripts import Script, WorkerEnvironment
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError


class Layout(Protocol):
    """One of the two. All methods raise ProviderError, and may be repeated."""

    own_scripts: Sequence[Script]
    """The scripts of the installation that it needs."""

    def worker_name(self, deployment: Deployment) -> str:
        """Return the name of the deployment's script that is called first."""
        ...

    def base_url(self, deployment: Deployment) -> str:
        """Return what the deployment's paths are appended to."""
        ...

    def limits(self, deployment: Deployment) -> Limits | None:
        """Return what a call must say that the agent script may use."""
        ...

    async def prepare(self) -> None:
        """Make what the own scripts need."""
        ...

    async def publish(self) -> None:
        """Make the own scripts reachable."""
        ...

    async def upload(
        self, deployment: Deployment, bundle: Bundle, secrets: Mapping[str, str]
    ) -> None:
        """Upload the deployment's scripts, the agent script with these secrets."""
        ...

    async def change_secrets(
        self, deployment: Deployment, values: Mapping[str, str | None]
    ) -> None:
        """Set secrets of the agent script; None removes one."""
        ...

    async def update_front(self, deployment: Deployment) -> None:
        """Upload the deployment's own front again, if it has one, with the keys of now."""
        ...

    async def route(self, deployment: Deployment) -> None:
        """Make the deployment reachable at its address."""
        ...

    async def remove_route(self, deployment: Deployment) -> None:
        """Make the deployment unreachable. One that has no route is left as it is."""
        ...

    async def remove_scripts(self, deployment: Deployment) -> None:
        """Remove the deployment's scripts. What is gone is left as it is."""
        ...


class PlainAccount:
    """Two scripts and one route for each deployment."""

    def __init__(
        self,
        api: CloudflareApi,
        routing: Routing,
        environment: WorkerEnvironment,
        master_keys: MasterKeys,
        tiers: dict[str, Entitlements],
    ) -> None:
        self._api = api
        self._routing = routing
        self._environment = environment
        self._master_keys = master_keys
        self._tiers = tiers
        self.own_scripts: Sequence[Script] = ()

    def worker_name(self, deployment: Deployment) -> str:
        """Return the name of the front."""
        return front_name(deployment.agent_id, deployment.id)

    def base_url(self, deployment: Deployment) -> str:
        """Return what the deployment's paths are appended to."""
        return self._routing.deployment_url(deployment.agent_id, deployment.id)

    def limits(self, deployment: Deployment) -> Limits | None:
        """Return None: the agent script has its limits."""

    async def prepare(self) -> None:
        """Do nothing."""

    async def publish(self) -> None:
        """Do nothing."""

    async def upload(
        self, deployment: Deployment, bundle: Bundle, secrets: Mapping[str, str]
    ) -> None:
        """Upload the agent script first: the front's binding needs it."""
        front = self._front(deployment)
        limits = Limits.of(self._tiers[known_tier(self._tiers, deployment.plan.tier)])
        installation_id = self._environment.installation_id
        agent = scripts.agent_script(deployment, bundle, limits, installation_id, secrets)
        await self._api.list_scripts_unless_taken({agent.name, front.name})
        await self._api.put_script(agent)
        await self._api.put_script(front, after_upload=True)

    async def change_secrets(
        self, deployment: Deployment, values: Mapping[str, str | None]
    ) -> None:
        """Change the agent script."""
        name = agent_script_name(deployment.agent_id, deployment.id)
        await self._api.change_secrets(name, values)

    async def update_front(self, deployment: Deployment) -> None:
        """Upload the front alone; the calls that it is answering end as they began."""
        front = self._front(deployment)
        await self._api.list_scripts_unless_taken({front.name})
        await self._api.put_script(front)

    def _front(self, deployment: Deployment) -> Script:
        plan = deployment.plan
        key = self._master_keys.telemetry_key(plan.key_version, deployment.id, plan.key_generation)
        if key is None:
            message = f"Master key {plan.key_version} is not configured."
            raise ProviderError("telemetry key", None, message, transient=False)
        return scripts.front_script(deployment, key, self._environment)

    async def route(self, deployment: Deployment) -> None:
        """Add the front's route, or enable its workers.dev host."""
        name = self.worker_name(deployment)
        if isinstance(self._routing, CustomDomain):
            await self._api.add_route(self._routing.deployment_pattern(deployment.id), name)
        else:
            await self._api.enable_subdomain(name)

    async def remove_route(self, deployment: Deployment) -> None:
        """Remove the front's route; a workers.dev host goes with its script."""
        if isinstance(self._routing, CustomDomain):
            pattern = self._routing.deployment_pattern(deployment.id)
            name = self.worker_name(deployment)
            for route in await self._api.list_routes():
                if route.pattern == pattern and route.script == name:
                    await self._api.delete_route(route)

    async def remove_scripts(self, deployment: Deployment) -> None:
        """Remove the front first: nothing is called that is not there."""
        agent_script = agent_script_name(deployment.agent_id, deployment.id)
        found = {script.name: script for script in await self._api.list_scripts()}
        for name in (self.worker_name(deployment), agent_script):
            if name in found:
                await self._api.delete_script(found[name])


class DispatchNamespace:
    """One script for each deployment, and one route for all."""

    def __init__(
        self,
        api: CloudflareApi,
        user_workers: UserWorkers,
        routing: Routing,
        environment: WorkerEnvironment,
        master_keys: MasterKeys,
        tiers: dict[str, Entitlements],
        egress: Egress,
    ) -> None:
        self._api = api
        self._user_workers = user_workers
        self._routing = routing
        self._environment = environment
        self._tiers = tiers
        front = platform_scripts.dispatch_script(environment, master_keys, user_workers.namespace)
        self._front = front.name
        self._published = False
        # The outbound Worker first: the dispatch Worker's binding needs it.
        self.own_scripts: Sequence[Script] = (
            platform_scripts.outbound_script(environment, egress),
            front,
        )

    def worker_name(self, deployment: Deployment) -> str:
        """Return the name of the agent script."""
        return agent_script_name(deployment.agent_id, deployment.id)

    def base_url(self, deployment: Deployment) -> str:
        """Return what the deployment's paths are appended to."""
        return self._routing.dispatched_url(self._environment.installation_id, deployment.id)

    def limits(self, deployment: Deployment) -> Limits | None:
        """Return the limits of the tier that the deployment began in."""
        return Limits.of(self._tiers[known_tier(self._tiers, deployment.plan.tier)])

    async def prepare(self) -> None:
        """Create the namespace where there is none."""
        await self._user_workers.ensure_namespace()

    async def publish(self) -> None:
        """Add the route to the dispatch Worker, or enable its workers.dev host; once."""
        if self._published:
            return
        if isinstance(self._routing, CustomDomain):
            await self._api.add_route(self._routing.dispatch_pattern, self._front)
        else:
            await self._api.enable_subdomain(self._front)
        self._published = True

    async def upload(
        self, deployment: Deployment, bundle: Bundle, secrets: Mapping[str, str]
    ) -> None:
        """Upload the agent script."""
        installation_id = self._environment.installation_id
        script = scripts.agent_script(deployment, bundle, None, installation_id, secrets)
        await self._user_workers.put(script)

    async def change_secrets(
        self, deployment: Deployment, values: Mapping[str, str | None]
    ) -> None:
        """Change the agent script."""
        await self._user_workers.change_secrets(self.worker_name(deployment), values)

    async def update_front(self, deployment: Deployment) -> None:
        """Do nothing: the dispatch Worker is one of the own scripts."""

    async def route(self, deployment: Deployment) -> None:
        """Do nothing: the dispatch Worker's route is there."""

    async def remove_route(self, deployment: Deployment) -> None:
        """Do nothing: without its script the deployment is not there."""

    async def remove_scripts(self, deployment: Deployment) -> None:
        """Remove the agent script."""
        await self._user_workers.delete(self.worker_name(deployment))
