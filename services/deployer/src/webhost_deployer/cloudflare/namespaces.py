"""Cloudflare's API for the user Workers of one dispatch namespace (Workers for Platforms).

Guarantees: see `sdk`; only scripts with this installation's tag are listed, replaced or deleted.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import httpx
import msgspec

from webhost_deployer.cloudflare.api import Named
from webhost_deployer.cloudflare.failures import Missing, name_taken
from webhost_deployer.cloudflare.inventory import ListedScript
from webhost_deployer.cloudflare.scripts import Script, installation_tag
from webhost_deployer.cloudflare.sdk import Sdk, files_of, metadata_of, patches_of
from webhost_deployer.provider import ProviderError


class UserWorkers:
    """The calls that are made to one namespace, which must be an untrusted one."""

    def __init__(self, sdk: Sdk, namespace: str, installation_id: str) -> None:
        self.namespace = namespace
        self._sdk = sdk
        self._account_id = sdk.account_id
        self._namespaces = sdk.client.workers_for_platforms.dispatch.namespaces
        self._scripts = self._namespaces.scripts
        self._path = f"/workers/dispatch/namespaces/{namespace}/scripts"
        self._tag = installation_tag(installation_id)

    async def ensure_namespace(self) -> None:
        """Create the namespace where there is none of this name."""
        if await self._exists():
            return
        try:
            await self._sdk.do(
                "POST /workers/dispatch/namespaces",
                lambda: self._namespaces.with_raw_response.create(
                    account_id=self._account_id, name=self.namespace
                ),
            )
        except ProviderError:
            # Another deployer may have been first.
            if not await self._exists():
                raise

    async def _exists(self) -> bool:
        found = await self._sdk.call(
            "GET /workers/dispatch/namespaces",
            lambda: self._namespaces.with_raw_response.list(account_id=self._account_id),
            list[_Namespace],
        )
        return any(it.namespace_name == self.namespace for it in found)

    async def put(self, script: Script) -> None:
        """Upload a script with everything that it has, in one call, unless another has its name."""
        tags = await self._tags_of(script.name)
        if tags is not None and self._tag not in tags:
            raise name_taken(script.name)
        await self._sdk.call(
            f"PUT {self._path}/{script.name}",
            lambda: self._scripts.with_raw_response.update(
                script.name,
                account_id=self._account_id,
                dispatch_namespace=self.namespace,
                metadata=cast(Any, metadata_of(script)),
                files=files_of(script),
            ),
            Named,
        )

    async def change_secrets(self, name: str, values: Mapping[str, str | None]) -> None:
        """Set these secrets of a script, and remove those that are None: one new version."""
        change = self._scripts.secrets.with_raw_response.bulk_update
        for patch in patches_of(values):
            await self._sdk.do(
                f"PATCH {self._path}/{name}/secrets-bulk",
                partial(
                    change,
                    name,
                    account_id=self._account_id,
                    dispatch_namespace=self.namespace,
                    secrets=cast(Any, patch),
                ),
            )

    async def list(self) -> list[ListedScript]:
        """Return the scripts with this installation's tag; none where there is no namespace."""

        try:
            found = await self._sdk.call(
                f"GET {self._path}",
                # The SDK has no method for this listing.
                lambda: self._sdk.client.get(
                    f"/accounts/{self._account_id}{self._path}",
                    options={"params": {"tags": f"{self._tag}:yes"}},
                    cast_to=httpx.Response,
                ),
                list[Named],
            )
        except Missing:
            return []
        listed = [ListedScript(it.id, tuple(it.tags or ()), self.namespace) for it in found]
        return [script for script in listed if self._tag in script.tags]

    async def delete(self, name: str) -> None:
        """Delete the script where it has this installation's tag; it may be gone already."""
        tags = await self._tags_of(name)
        if tags is not None and self._tag in tags:
            await self._sdk.delete(
                f"DELETE {self._path}/{name}",
                lambda: self._scripts.with_raw_response.delete(
                    name,
                    account_id=self._account_id,
                    dispatch_namespace=self.namespace,
                    force=True,
                ),
            )

    async def _tags_of(self, name: str) -> tuple[str, ...] | None:
        """Return the script's tags, None where there is no such script."""
        try:
            return tuple(
                await self._sdk.call(
                    f"GET {self._path}/{name}/tags",
                    lambda: self._scripts.tags.with_raw_response.list(
                        name, account_id=self._account_id, dispatch_namespace=self.namespace
                    ),
                    list[str],
                )
            )
        except Missing:
            return None


class _Namespace(msgspec.Struct):
    namespace_name: str
