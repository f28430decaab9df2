"""Cloudflare's API, through its official SDK. The only file that imports it.

Guarantees: every call respects the rate limit that all deployers share, and is made once: retries
are the saga's job. Only scripts with this installation's tag are listed. Every failure is a
ProviderError that says whether the same call may succeed later.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

import httpx
from cloudflare import (
    APIConnectionError,
    APIStatusError,
    AsyncCloudflare,
    CloudflareError,
    RateLimitError,
)

from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.scripts import SESSIONS_MIGRATION, Script, installation_tag
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


class CloudflareApi:
    """The calls that are made to one account and one zone. Without a zone there are no routes."""

    def __init__(
        self,
        api_token: str,
        base_url: str | None,
        account_id: str,
        zone_id: str | None,
        installation_id: str,
        limit: RateLimiter,
    ) -> None:
        self._account_id = account_id
        self._zone_id = zone_id
        self._tag = installation_tag(installation_id)
        self._limit = limit
        # No retries by the SDK, no answers that are not JSON.
        self._sdk = AsyncCloudflare(
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

    async def close(self) -> None:
        """Close every connection."""
        await self._sdk.close()

    async def list_scripts(self) -> list[ListedScript]:
        """Return all scripts with this installation's tag."""
        found = await self._list_scripts(tags=f"{self._tag}:yes")
        return [script for script in found if self._tag in script.tags]

    async def find_script(self, name: str) -> ListedScript | None:
        """Return the script of this name, where it has this installation's tag."""
        return next((script for script in await self.list_scripts() if script.name == name), None)

    async def script_exists(self, name: str) -> bool:
        """Say whether there is a script of this name, of this installation or not."""
        return any(script.name == name for script in await self._list_scripts())

    async def put_script(self, script: Script, new_classes: Sequence[str] = ()) -> None:
        """Upload script, tags, bindings and secrets in one call."""
        metadata: dict[str, Any] = {
            "main_module": script.main_module,
            "compatibility_date": script.compatibility_date,
            "compatibility_flags": script.compatibility_flags,
            "tags": script.tags,
            "bindings": script.bindings,
        }
        if new_classes:
            metadata["migrations"] = {
                "new_tag": SESSIONS_MIGRATION,
                "new_sqlite_classes": list(new_classes),
            }
        await self._call(
            f"PUT /workers/scripts/{script.name}",
            lambda: self._sdk.workers.scripts.with_raw_response.update(
                script.name,
                account_id=self._account_id,
                # The SDK does not type `props`.
                metadata=cast(Any, metadata),
                files=[(name, body, MODULE_TYPE) for name, body in script.modules.items()],
            ),
        )

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed as ours; it may be gone already."""
        await self._ignoring_not_found(
            f"DELETE /workers/scripts/{script.name}",
            lambda: self._sdk.workers.scripts.with_raw_response.delete(
                script.name, account_id=self._account_id, force=True
            ),
        )

    async def enable_subdomain(self, script: str) -> None:
        """Let the script answer at its workers.dev host."""
        await self._call(
            f"POST /workers/scripts/{script}/subdomain",
            lambda: self._sdk.workers.scripts.subdomain.with_raw_response.create(
                script, account_id=self._account_id, enabled=True
            ),
        )

    async def list_routes(self) -> list[ListedRoute]:
        """Return all routes of the zone, others' too; none where there is no zone."""
        if self._zone_id is None:
            return []
        zone_id = self._zone_id

        async def call() -> list[ListedRoute]:
            page = await self._sdk.workers.routes.list(zone_id=zone_id)
            return [ListedRoute(r.id, r.pattern, r.script) for r in page.result]

        return await self._call("GET /workers/routes", call)

    async def add_route(self, pattern: str, script: str) -> None:
        """Route requests that match the pattern to the script; it is fine if they are already."""
        zone_id = self._require_zone()
        try:
            await self._call(
                "POST /workers/routes",
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

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed as ours; it may be gone already."""
        zone_id = self._require_zone()
        await self._ignoring_not_found(
            f"DELETE /workers/routes/{route.id}",
            lambda: self._sdk.workers.routes.with_raw_response.delete(route.id, zone_id=zone_id),
        )

    async def _list_scripts(self, **filters: str) -> list[ListedScript]:
        async def call() -> list[ListedScript]:
            page = await self._sdk.workers.scripts.list(
                account_id=self._account_id, **cast(Any, filters)
            )
            return [ListedScript(str(s.id), tuple(s.tags or ())) for s in page.result]

        return await self._call("GET /workers/scripts", call)

    def _require_zone(self) -> str:
        if self._zone_id is None:
            raise ValueError("routes need a zone")
        return self._zone_id

    async def _ignoring_not_found(self, endpoint: str, call: Callable[[], Awaitable[Any]]) -> None:
        with suppress(_NotFound):
            await self._call(endpoint, call)

    async def _call(self, endpoint: str, call: Callable[[], Awaitable[T]]) -> T:
        await self._limit.acquire()
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
            # The SDK does not validate responses.
            raise ProviderError(endpoint, None, "Unreadable answer.", transient=True) from error


class _NotFound(ProviderError):
    """The requested resource does not exist."""


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
