"""Cloudflare's API for the user Workers of one dispatch namespace (Workers for Platforms).

Guarantees: see `sdk`; only scripts with this installation's tag are listed or deleted.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from cloudflare import BaseModel

from webhost_deployer.cloudflare.inventory import ListedScript
from webhost_deployer.cloudflare.scripts import Script, installation_tag
from webhost_deployer.cloudflare.sdk import Missing, Sdk, files_of, metadata_of, patches_of
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
            await self._sdk.call(
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
        async def call() -> bool:
            page = self._namespaces.list(account_id=self._account_id)
            return self.namespace in {found.namespace_name async for found in page}

        return await self._sdk.call("GET /workers/dispatch/namespaces", call)

    async def put(self, script: Script) -> None:
        """Upload a script with everything that it has, in one call."""
        await self._sdk.call(
            f"PUT {self._path}/{script.name}",
            lambda: self._scripts.with_raw_response.update(
                script.name,
                account_id=self._account_id,
                dispatch_namespace=self.namespace,
                metadata=cast(Any, metadata_of(script)),
                files=files_of(script),
            ),
        )

    async def change_secrets(self, name: str, values: Mapping[str, str | None]) -> None:
        """Set these secrets of a script, and remove those that are None: one new version."""
        change = self._scripts.secrets.with_raw_response.bulk_update
        for patch in patches_of(values):
            await self._sdk.call(
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

        async def call() -> list[ListedScript]:
            page = await self._sdk.client.get(
                f"/accounts/{self._account_id}{self._path}",
                options={"params": {"tags": f"{self._tag}:yes"}},
                cast_to=_Listing,
            )
            found = [ListedScript(s.id, tuple(s.tags or ()), self.namespace) for s in page.result]
            return [script for script in found if self._tag in script.tags]

        try:
            return await self._sdk.call(f"GET {self._path}", call)
        except Missing:
            return []

    async def delete(self, name: str) -> None:
        """Delete the script where it has this installation's tag; it may be gone already."""

        async def tags() -> set[str]:
            page = self._scripts.tags.list(
                name, account_id=self._account_id, dispatch_namespace=self.namespace
            )
            return {tag async for tag in page}

        try:
            is_ours = self._tag in await self._sdk.call(f"GET {self._path}/{name}/tags", tags)
        except Missing:
            return
        if is_ours:
            await self._sdk.delete(
                f"DELETE {self._path}/{name}",
                lambda: self._scripts.with_raw_response.delete(
                    name,
                    account_id=self._account_id,
                    dispatch_namespace=self.namespace,
                    force=True,
                ),
            )


class _Listed(BaseModel):
    id: str
    tags: list[str] | None = None


class _Listing(BaseModel):
    """The answer of a listing for which the SDK has no method."""

    result: list[_Listed]
