"""The runtime provider `cloudflare`: the saga's steps as calls to Cloudflare.

Guarantees: only scripts with this installation's tag are deleted, and only routes of our pattern
that lead to a script of ours. A call whose outcome is unknown may be repeated: uploads replace,
removals check first, and an existing route is compared.
"""

from webhost_contracts.artifacts import Bundle
from webhost_kit.database.locks import waited_for
from webhost_kit.keys import MasterKeys
from webhost_worker import SESSIONS_CLASS

from webhost_deployer.cloudflare import addresses, scripts
from webhost_deployer.cloudflare.addresses import CustomDomain, Routing
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.scripts import WorkerEnvironment
from webhost_deployer.cloudflare.worker_client import WorkerClient
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError


class Cloudflare:
    """The provider, of one installation. `lock_dsn` is where deployers lock the session Worker."""

    def __init__(
        self,
        api: CloudflareApi,
        workers: WorkerClient,
        routing: Routing,
        environment: WorkerEnvironment,
        master_keys: MasterKeys,
        lock_dsn: str,
    ) -> None:
        self._api = api
        self._workers = workers
        self._routing = routing
        self._environment = environment
        self._master_keys = master_keys
        self._lock_dsn = lock_dsn

    def worker_name(self, deployment: Deployment) -> str:
        """Return the deployment's script name."""
        return addresses.worker_name(deployment.agent_id, deployment.id)

    def invoke_url(self, deployment: Deployment) -> str:
        """Return the address at which the deployment is invoked."""
        return f"{self._base_url(deployment)}/invoke"

    def problem_of(self, deployment: Deployment, bundle: Bundle) -> str | None:
        """Say why these modules cannot be deployed."""
        return scripts.bundle_problem(deployment.plan.main_module_name, bundle)

    async def ensure_session_store(self) -> None:
        """Upload the session Worker where there is none or an older one."""
        wanted = scripts.sessions_script(self._environment)
        found = await self._api.find_script(wanted.name)
        if found is not None and scripts.is_current(found.tags, wanted):
            return
        async with waited_for(self._lock_dsn, f"session store {wanted.name}"):
            found = await self._api.find_script(wanted.name)
            if found is None:
                await self._api.put_script(wanted, new_classes=[SESSIONS_CLASS])
            elif not scripts.is_current(found.tags, wanted):
                await self._api.put_script(wanted)

    async def upload(self, deployment: Deployment, bundle: Bundle) -> None:
        """Upload script, tags, bindings and secrets in one call."""
        plan = deployment.plan
        key = self._master_keys.telemetry_key(plan.key_version, deployment.id, plan.key_generation)
        if key is None:
            raise ProviderError(
                "telemetry key",
                None,
                f"Master key {plan.key_version} is not configured.",
                transient=False,
            )
        await self._api.put_script(scripts.agent_script(deployment, bundle, key, self._environment))

    async def route(self, deployment: Deployment) -> None:
        """Add the deployment's route, or enable its workers.dev host."""
        name = self.worker_name(deployment)
        if isinstance(self._routing, CustomDomain):
            await self._api.add_route(self._routing.deployment_pattern(deployment.id), name)
        else:
            await self._api.enable_subdomain(name)

    async def probe(self, deployment: Deployment) -> None:
        """See that this deployment answers at its address."""
        await self._workers.probe(self._base_url(deployment), deployment.id)

    async def remove_route(self, deployment: Deployment) -> None:
        """Remove the deployment's route; a workers.dev host goes with its script."""
        if isinstance(self._routing, CustomDomain):
            pattern = self._routing.deployment_pattern(deployment.id)
            for route in await self._api.list_routes():
                if route.pattern == pattern and route.script == self.worker_name(deployment):
                    await self._api.delete_route(route)

    async def remove_script(self, deployment: Deployment) -> None:
        """Remove the deployment's script, if there is one with our tag."""
        script = await self._api.find_script(self.worker_name(deployment))
        if script is not None:
            await self._api.delete_script(script)

    async def purge_sessions(self, agent_id: str) -> None:
        """Remove all sessions of the agent; without a session Worker there are none.

        Only this call needs the session Worker's public address, so the route is added here.
        """
        installation_id = self._environment.installation_id
        name = addresses.sessions_name(installation_id)
        if await self._api.find_script(name) is None:
            return
        if isinstance(self._routing, CustomDomain):
            await self._api.add_route(self._routing.sessions_pattern, name)
        else:
            await self._api.enable_subdomain(name)
        await self._workers.purge(self._routing.sessions_url(installation_id), agent_id)

    def _base_url(self, deployment: Deployment) -> str:
        return self._routing.deployment_url(deployment.agent_id, deployment.id)
