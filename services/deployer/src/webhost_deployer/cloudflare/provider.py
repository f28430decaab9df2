"""The runtime provider `cloudflare`: the saga's steps as calls to Cloudflare.

A call whose outcome is unknown may be repeated: uploads replace, removals check first, and an
existing route is compared.
"""

from collections.abc import Callable, Mapping, Sequence

from webhost_contracts.artifacts import Bundle
from webhost_kit.database.locks import waited_for
from webhost_worker import SESSIONS_CLASS

from webhost_deployer.cloudflare import addresses, platform_scripts, scripts
from webhost_deployer.cloudflare.addresses import CustomDomain, Routing
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.failures import NO_SUCH_SCRIPT, Missing
from webhost_deployer.cloudflare.inventory import ListedScript
from webhost_deployer.cloudflare.layouts import Layout
from webhost_deployer.cloudflare.scripts import Script, WorkerEnvironment
from webhost_deployer.cloudflare.worker_client import WorkerClient
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ScriptGone


class Cloudflare:
    """The provider, of one installation. `lock_dsn` is where deployers lock its own scripts.

    `layout_of` gives the layout of a dispatch namespace, or of a plain account for None.
    """

    def __init__(
        self,
        api: CloudflareApi,
        workers: WorkerClient,
        routing: Routing,
        environment: WorkerEnvironment,
        layout_of: Callable[[str | None], Layout],
        lock_dsn: str,
    ) -> None:
        self._api = api
        self._workers = workers
        self._routing = routing
        self._environment = environment
        self._layout_of = layout_of
        self._lock_dsn = lock_dsn

    def worker_name(self, deployment: Deployment) -> str:
        """Return the name of the deployment's script that is called first."""
        return self._layout(deployment).worker_name(deployment)

    def invoke_url(self, deployment: Deployment) -> str:
        """Return the address at which the deployment is invoked."""
        return f"{self._layout(deployment).base_url(deployment)}/invoke"

    def problem_of(self, deployment: Deployment, bundle: Bundle) -> str | None:
        """Say why these modules cannot be deployed."""
        return scripts.bundle_problem(deployment.plan.main_module_name, bundle)

    async def ensure_installation(self, deployment: Deployment) -> None:
        """Upload the installation's own scripts where there are none or older ones."""
        layout = self._layout(deployment)
        await self._upload_outdated(layout, await self._api.list_scripts(), only_existing=False)
        await layout.publish()

    async def refresh_installation(
        self, namespace: str | None, found: Sequence[ListedScript]
    ) -> None:
        """Upload those of the installation's own scripts again that were found and are older."""
        await self._upload_outdated(self._layout_of(namespace), found, only_existing=True)

    async def refresh_own_scripts(self, namespace: str | None) -> None:
        """List the installation's own scripts, and upload those again that are older."""
        await self.refresh_installation(namespace, await self._api.list_scripts())

    async def outdated_own_scripts(self, namespace: str | None) -> int:
        """Return how many of the installation's own scripts are not current."""
        wanted = [platform_scripts.sessions_script(self._environment)]
        wanted += self._layout_of(namespace).own_scripts
        return len(_outdated(wanted, await self._api.list_scripts(), only_existing=True))

    async def _upload_outdated(
        self, layout: Layout, found: Sequence[ListedScript], *, only_existing: bool
    ) -> None:
        sessions = platform_scripts.sessions_script(self._environment)
        wanted = [sessions, *layout.own_scripts]
        if not _outdated(wanted, found, only_existing=only_existing):
            return
        async with waited_for(self._lock_dsn, f"platform scripts {sessions.name}"):
            await layout.prepare()
            found = await self._api.list_scripts_unless_taken({script.name for script in wanted})
            for script, is_new in _outdated(wanted, found, only_existing=only_existing):
                classes = [SESSIONS_CLASS] if is_new and script is sessions else []
                await self._api.put_script(script, new_classes=classes)

    def _layout(self, deployment: Deployment) -> Layout:
        return self._layout_of(deployment.plan.namespace)

    async def upload(
        self, deployment: Deployment, bundle: Bundle, secrets: Mapping[str, str]
    ) -> None:
        """Upload the deployment's scripts, each with tags, bindings and secrets in one call."""
        await self._layout(deployment).upload(deployment, bundle, secrets)

    async def change_secrets(
        self, deployment: Deployment, values: Mapping[str, str | None]
    ) -> None:
        """Set secrets of the agent script, and remove those that are None, in one call."""
        try:
            await self._layout(deployment).change_secrets(deployment, values)
        except Missing as error:
            if error.code != NO_SUCH_SCRIPT:
                raise
            raise ScriptGone(
                error.endpoint, error.code, error.message, transient=error.transient
            ) from error

    @property
    def public_key_ids(self) -> tuple[str, ...]:
        """Return the ids of the public keys that fronts are given."""
        return self._environment.public_key_ids

    def front_keys(self, deployment: Deployment) -> tuple[str, ...]:
        """Return the ids of the public keys of the deployment's own front."""
        own_front = deployment.plan.namespace is None
        return self._environment.public_key_ids if own_front else ()

    async def update_front(self, deployment: Deployment) -> None:
        """Upload the deployment's own front again, where it has one."""
        await self._layout(deployment).update_front(deployment)

    async def route(self, deployment: Deployment) -> None:
        """Make the deployment reachable at its address."""
        await self._layout(deployment).route(deployment)

    async def probe(self, deployment: Deployment) -> None:
        """See that this deployment answers at its address."""
        layout = self._layout(deployment)
        base_url, limits = layout.base_url(deployment), layout.limits(deployment)
        await self._workers.probe(base_url, deployment, limits)

    async def remove_route(self, deployment: Deployment) -> None:
        """Make the deployment unreachable."""
        await self._layout(deployment).remove_route(deployment)

    async def remove_script(self, deployment: Deployment) -> None:
        """Remove the deployment's scripts."""
        await self._layout(deployment).remove_scripts(deployment)

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


def _outdated(
    wanted: Sequence[Script], found: Sequence[ListedScript], *, only_existing: bool
) -> list[tuple[Script, bool]]:
    """Return the scripts that must be uploaded, and whether there is none of that name."""
    tags = {script.name: script.tags for script in found}
    return [
        (script, script.name not in tags)
        for script in wanted
        if not platform_scripts.is_current(tags.get(script.name, ()), script)
        and (script.name in tags or not only_existing)
    ]
