"""Cloudflare's API for the account's own scripts and the zone's routes.

Guarantees: see `sdk`; only scripts with this installation's tag are listed as ours, and none is
uploaded over another.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from webhost_deployer.cloudflare.failures import DUPLICATE_ROUTE, name_taken, route_gone
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.platform_scripts import SESSIONS_MIGRATION
from webhost_deployer.cloudflare.scripts import Script, installation_tag
from webhost_deployer.cloudflare.sdk import Sdk, files_of, metadata_of, patches_of
from webhost_deployer.provider import ProviderError


class Named(msgspec.Struct):
    """What an upload is answered with; a listing's entries are of this form too."""

    id: str
    tags: list[str] | None = None


class _Route(msgspec.Struct):
    id: str
    pattern: str
    script: str | None = None


class CloudflareApi:
    """The calls that are made to one account and one zone. Without a zone there are no routes."""

    def __init__(self, sdk: Sdk, zone_id: str | None, installation_id: str) -> None:
        self._sdk = sdk
        self._account_id = sdk.account_id
        self._workers = sdk.client.workers
        self._zone_id = zone_id
        self._tag = installation_tag(installation_id)

    async def list_scripts(self) -> list[ListedScript]:
        """Return all scripts with this installation's tag."""
        found = await self._list_scripts(tags=f"{self._tag}:yes")
        return [script for script in found if self._tag in script.tags]

    async def list_scripts_unless_taken(self, names: Collection[str]) -> list[ListedScript]:
        """Return all scripts with this installation's tag.

        Raises ProviderError where one of `names` is a script without it.
        """
        found = await self._list_scripts()
        for script in found:
            if script.name in names and self._tag not in script.tags:
                raise name_taken(script.name)
        return [script for script in found if self._tag in script.tags]

    async def find_script(self, name: str) -> ListedScript | None:
        """Return the script of this name, where it has this installation's tag."""
        return next((script for script in await self.list_scripts() if script.name == name), None)

    async def script_exists(self, name: str) -> bool:
        """Say whether there is a script of this name, of this installation or not."""
        return any(script.name == name for script in await self._list_scripts())

    async def put_script(
        self, script: Script, new_classes: Sequence[str] = (), *, after_upload: bool = False
    ) -> None:
        """Upload script, tags, bindings and secrets in one call.

        `after_upload` says that another one was uploaded just before.
        """
        metadata = metadata_of(script)
        if new_classes:
            metadata["migrations"] = {
                "new_tag": SESSIONS_MIGRATION,
                "new_sqlite_classes": list(new_classes),
            }
        await self._sdk.call(
            f"PUT /workers/scripts/{script.name}",
            lambda: self._workers.scripts.with_raw_response.update(
                script.name,
                account_id=self._account_id,
                metadata=cast(Any, metadata),
                files=files_of(script),
            ),
            Named,
            after_upload=after_upload,
        )

    async def change_secrets(self, script: str, values: Mapping[str, str | None]) -> None:
        """Set these secrets of a script, and remove those that are None: one new version."""
        change = self._workers.scripts.secrets.with_raw_response.bulk_update
        for patch in patches_of(values):
            await self._sdk.do(
                f"PATCH /workers/scripts/{script}/secrets-bulk",
                partial(change, script, account_id=self._account_id, secrets=cast(Any, patch)),
            )

    async def delete_script(self, script: ListedScript) -> None:
        """Delete a script that was listed as ours; it may be gone already."""
        await self._sdk.delete(
            f"DELETE /workers/scripts/{script.name}",
            lambda: self._workers.scripts.with_raw_response.delete(
                script.name, account_id=self._account_id, force=True
            ),
        )

    async def enable_subdomain(self, script: str) -> None:
        """Let the script, which was uploaded just before, answer at its workers.dev host."""
        await self._sdk.do(
            f"POST /workers/scripts/{script}/subdomain",
            lambda: self._workers.scripts.subdomain.with_raw_response.create(
                script, account_id=self._account_id, enabled=True
            ),
            after_upload=True,
        )

    async def list_routes(self) -> list[ListedRoute]:
        """Return all routes of the zone, others' too; none where there is no zone."""
        if self._zone_id is None:
            return []
        zone_id = self._zone_id
        found = await self._sdk.call(
            "GET /workers/routes",
            lambda: self._workers.routes.with_raw_response.list(zone_id=zone_id),
            list[_Route],
        )
        return [ListedRoute(route.id, route.pattern, route.script) for route in found]

    async def add_route(self, pattern: str, script: str) -> None:
        """Route requests that match the pattern to the script; it is fine if they are already."""
        zone_id = self._require_zone()
        try:
            await self._sdk.call(
                "POST /workers/routes",
                lambda: self._workers.routes.with_raw_response.create(
                    zone_id=zone_id, pattern=pattern, script=script
                ),
                Named,
            )
        except ProviderError as error:
            if error.code != DUPLICATE_ROUTE:
                raise
            there = [route.script for route in await self.list_routes() if route.pattern == pattern]
            if not there:
                raise route_gone("POST /workers/routes") from error
            if there != [script]:
                raise

    async def delete_route(self, route: ListedRoute) -> None:
        """Delete a route that was listed as ours; it may be gone already."""
        zone_id = self._require_zone()
        await self._sdk.delete(
            f"DELETE /workers/routes/{route.id}",
            lambda: self._workers.routes.with_raw_response.delete(route.id, zone_id=zone_id),
        )

    async def _list_scripts(self, **filters: str) -> list[ListedScript]:
        found = await self._sdk.call(
            "GET /workers/scripts",
            lambda: self._workers.scripts.with_raw_response.list(
                account_id=self._account_id, **cast(Any, filters)
            ),
            list[Named],
        )
        return [ListedScript(script.id, tuple(script.tags or ())) for script in found]

    def _require_zone(self) -> str:
        if self._zone_id is None:
            raise ValueError("routes need a zone")
        return self._zone_id
