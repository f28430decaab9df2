"""Cloudflare, through its official SDK. The only file that imports it.

Guarantees: every call keeps the limit that all deployers share, and is made once: tries are the
saga's. Only scripts with this installation's tag are deleted, and only routes of our pattern
that lead to the script of ours. A call whose outcome is unknown may be made again: uploads
replace, removals look first, and a route that is there already is looked at.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

import httpx
from cloudflare import (
    APIConnectionError,
    APIStatusError,
    AsyncCloudflare,
    CloudflareError,
    RateLimitError,
)
from webhost_contracts.artifacts import Bundle
from webhost_kit.database.engine import Database
from webhost_kit.keys import MasterKeys
from webhost_worker import SESSIONS_CLASS

from webhost_deployer.cloudflare import addresses, scripts
from webhost_deployer.cloudflare.addresses import CustomDomain, Routing
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.scripts import Script, WorkerEnvironment
from webhost_deployer.cloudflare.worker_client import WorkerClient
from webhost_deployer.locks import waited_for
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError

TIMEOUT_S = 30.0
BLOCKED_S = 300
"""How long Cloudflare refuses every call of a token that made too many."""

MODULE_TYPE = "application/javascript+module"

DUPLICATE_ROUTE = "10020"
NO_SUCH_SCRIPT = "10007"
SCRIPT_NOT_SEEN_YET = "10019"
TRANSIENT_STATUS = frozenset({403, 408, 409, 425, 429})
"""403 was seen right after uploads that had succeeded."""

T = TypeVar("T")


def client(api_token: str, base_url: str | None) -> AsyncCloudflare:
    """Return the SDK's client: no tries of its own, no answers that are not JSON."""
    return AsyncCloudflare(
        api_token=api_token,
        base_url=base_url,
        max_retries=0,
        timeout=TIMEOUT_S,
        http_client=httpx.AsyncClient(
            timeout=TIMEOUT_S,
            trust_env=False,
            event_hooks={"response": [_refuse_pages]},
        ),
    )


class Cloudflare:
    """The runtime provider `cloudflare`."""

    def __init__(
        self,
        sdk: AsyncCloudflare,
        account_id: str,
        routing: Routing,
        environment: WorkerEnvironment,
        master_keys: MasterKeys,
        workers: WorkerClient,
        database: Database,
    ) -> None:
        self._sdk = sdk
        self._account_id = account_id
        self._routing = routing
        self._environment = environment
        self._master_keys = master_keys
        self._workers = workers
        self._database = database
        self._limit = RateLimiter(database, f"cloudflare {account_id}")

    def worker_name(self, deployment: Deployment) -> str:
        """Return the deployment's script name."""
        return addresses.worker_name(deployment.command.agent_id, deployment.id)

    def invoke_url(self, deployment: Deployment) -> str:
        """Return the address at which the deployment is invoked."""
        return f"{self._base_url(deployment)}/invoke"

    async def ensure_session_store(self) -> None:
        """Upload the session Worker where there is none or an older one."""
        wanted = scripts.sessions_script(self._environment)
        found = await self._find(wanted.name)
        if found is not None and scripts.is_current(found.tags, wanted):
            return
        async with waited_for(self._database.dsn, f"session store {wanted.name}"):
            found = await self._find(wanted.name)
            if found is None:
                await self._put(wanted, new_classes=[SESSIONS_CLASS])
            elif not scripts.is_current(found.tags, wanted):
                await self._put(wanted)

    async def upload(self, deployment: Deployment, bundle: Bundle) -> None:
        """Upload script, tags, bindings and secrets in one call."""
        key = self._master_keys.telemetry_key(
            deployment.key_version, deployment.id, deployment.key_generation
        )
        if key is None:
            raise ProviderError(
                "telemetry key",
                None,
                f"Master key {deployment.key_version} is not configured.",
                transient=False,
            )
        await self._put(scripts.agent_script(deployment, bundle, key, self._environment))

    async def route(self, deployment: Deployment) -> None:
        """Add the deployment's route, or enable its workers.dev host."""
        name = self.worker_name(deployment)
        if isinstance(self._routing, CustomDomain):
            pattern = self._routing.deployment_pattern(deployment.id)
            await self._add_route(self._routing.zone_id, pattern, name)
        else:
            await self._enable_subdomain(name)

    async def probe(self, deployment: Deployment) -> None:
        """See that this deployment answers at its address."""
        await self._workers.probe(self._base_url(deployment), deployment.id)

    async def remove_route(self, deployment: Deployment) -> None:
        """Remove the deployment's route; a workers.dev host goes with its script."""
        if isinstance(self._routing, CustomDomain):
            pattern = self._routing.deployment_pattern(deployment.id)
            for route in await self.list_routes():
                if route.pattern == pattern and route.script == self.worker_name(deployment):
                    await self.delete_route(route)

    async def remove_script(self, deployment: Deployment) -> None:
        """Remove the deployment's script, if there is one with our tag."""
        script = await self._find(self.worker_name(deployment))
        if script is not None:
            await self.delete_script(script)

    async def purge_sessions(self, agent_id: str) -> None:
        """Remove all sessions of the agent; without a session Worker there are none.

        This alone needs the session Worker's public address, so it is made here.
        """
        installation_id = self._environment.installation_id
        name = addresses.sessions_name(installation_id)
        if await self._find(name) is None:
            return
        if isinstance(self._routing, CustomDomain):
            await self._add_route(self._routing.zone_id, self._routing.sessions_pattern, name)
        else:
            await self._enable_subdomain(name)
        await self._workers.purge(self._routing.sessions_url(installation_id), agent_id)

    async def list_scripts(self) -> list[ListedScript]:
        """Return all scripts with this installation's tag."""
        tag = scripts.installation_tag(self._environment.installation_id)

        async def ask() -> list[ListedScript]:
            page = await self._sdk.workers.scripts.list(
                account_id=self._account_id, tags=f"{tag}:yes"
            )
            return [ListedScript(str(s.id), tuple(s.tags or ())) for s in page.result]

        found = await self._ask("GET /workers/scripts", ask)
        return [script for script in found if tag in script.tags]

    async def list_routes(self) -> list[ListedRoute]:
        """Return all routes of the zone, others' too; none where there is no zone."""
        if not isinstance(self._routing, CustomDomain):
            return []
        zone_id = self._routing.zone_id

        async def ask() -> list[ListedRoute]:
            page = await self._sdk.workers.routes.list(zone_id=zone_id)
            return [ListedRoute(r.id, r.pattern, r.script) for r in page.result]

        return await self._ask("GET /workers/routes", ask)

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed as ours; one that is gone is well."""
        await self._gone_is_well(
            f"DELETE /workers/scripts/{script.name}",
            lambda: self._sdk.workers.scripts.with_raw_response.delete(
                script.name, account_id=self._account_id, force=True
            ),
        )

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed as ours; one that is gone is well."""
        if isinstance(self._routing, CustomDomain):
            zone_id = self._routing.zone_id
            await self._gone_is_well(
                f"DELETE /workers/routes/{route.id}",
                lambda: self._sdk.workers.routes.with_raw_response.delete(
                    route.id, zone_id=zone_id
                ),
            )

    def _base_url(self, deployment: Deployment) -> str:
        return self._routing.deployment_url(deployment.command.agent_id, deployment.id)

    async def _find(self, name: str) -> ListedScript | None:
        return next((script for script in await self.list_scripts() if script.name == name), None)

    async def _put(self, script: Script, new_classes: list[str] | None = None) -> None:
        metadata: dict[str, Any] = {
            "main_module": script.main_module,
            "compatibility_date": script.compatibility_date,
            "compatibility_flags": script.compatibility_flags,
            "tags": script.tags,
            "bindings": script.bindings,
        }
        if new_classes:
            metadata["migrations"] = {
                "new_tag": scripts.SESSIONS_MIGRATION,
                "new_sqlite_classes": new_classes,
            }
        await self._ask(
            f"PUT /workers/scripts/{script.name}",
            lambda: self._sdk.workers.scripts.with_raw_response.update(
                script.name,
                account_id=self._account_id,
                # The SDK does not type `props`.
                metadata=cast(Any, metadata),
                files=[(name, body, MODULE_TYPE) for name, body in script.modules.items()],
            ),
        )

    async def _add_route(self, zone_id: str, pattern: str, script: str) -> None:
        endpoint = "POST /workers/routes"
        try:
            await self._ask(
                endpoint,
                lambda: self._sdk.workers.routes.with_raw_response.create(
                    zone_id=zone_id, pattern=pattern, script=script
                ),
            )
        except ProviderError as error:
            if error.code != DUPLICATE_ROUTE:
                raise
            there = [route.script for route in await self.list_routes() if route.pattern == pattern]
            if there != [script]:
                raise

    async def _enable_subdomain(self, script: str) -> None:
        await self._ask(
            f"POST /workers/scripts/{script}/subdomain",
            lambda: self._sdk.workers.scripts.subdomain.with_raw_response.create(
                script, account_id=self._account_id, enabled=True
            ),
        )

    async def _gone_is_well(self, endpoint: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._ask(endpoint, call)
        except ProviderError as error:
            if not isinstance(error, _NotFound):
                raise

    async def _ask(self, endpoint: str, call: Callable[[], Awaitable[T]]) -> T:
        await self._limit.take()
        try:
            return await call()
        except RateLimitError as error:
            said = error.response.headers.get("retry-after", "")
            seconds = int(said) if said.isdigit() else BLOCKED_S
            await self._limit.block(min(seconds, BLOCKED_S))
            _raise(endpoint, error)
        except CloudflareError as error:
            _raise(endpoint, error)
        except (AttributeError, TypeError) as error:
            # The SDK does not check the shape of what it was answered.
            raise ProviderError(endpoint, None, "Unreadable answer.", transient=True) from error


class _NotFound(ProviderError):
    """What was asked for is not there."""


def _raise(endpoint: str, error: CloudflareError) -> NoReturn:
    if not isinstance(error, APIStatusError):
        cause = error.__cause__ if isinstance(error, APIConnectionError) else None
        message = f"No usable answer: {cause or error}"
        raise ProviderError(endpoint, None, message, transient=True) from error
    status = error.status_code
    said = error.errors[0] if error.errors else None
    code = str(said.code) if said is not None and said.code is not None else str(status)
    message = str(said.message) if said is not None and said.message else f"HTTP {status}"
    transient = status >= 500 or status in TRANSIENT_STATUS or code == SCRIPT_NOT_SEEN_YET
    if code == DUPLICATE_ROUTE:
        transient = False
    kind = _NotFound if status == 404 or code == NO_SUCH_SCRIPT else ProviderError
    raise kind(endpoint, code, message, transient=transient or said is None) from error


async def _refuse_pages(response: httpx.Response) -> None:
    """Refuse an HTML page in place of an answer; the SDK turns this into a connection error."""
    if response.headers.get("content-type", "").startswith("text/html"):
        raise httpx.RemoteProtocolError(f"HTTP {response.status_code} with a page of HTML")
