"""The Cloudflare API's endpoints to scripts: upload, read, secrets, subdomain, delete."""

import asyncio
import time
from collections import defaultdict
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Endpoint

from webhost_local.edge import schemas, upload
from webhost_local.edge.errors import (
    WorkerFailedToStart,
    bad_request,
    binding_not_found,
    namespace_not_found,
    script_not_found,
    script_refused,
    service_not_found,
    version_not_found,
)
from webhost_local.edge.model import Script, script_key
from webhost_local.edge.requests import read_json, read_upload
from webhost_local.edge.store import Store
from webhost_local.edge.workers import Workers


class ScriptEndpoints:
    """Changes to one script are serial; every change is on disk before it is answered."""

    def __init__(self, store: Store, workers: Workers, account_subdomain: str) -> None:
        self._store = store
        self._workers = workers
        self._account_subdomain = account_subdomain
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def endpoints(self, account: str) -> list[Endpoint]:
        workers = f"{account}/workers"
        script = f"{workers}/scripts/{{name}}"
        return [
            *self._anywhere(f"{workers}/scripts"),
            *self._anywhere(f"{workers}/dispatch/namespaces/{{namespace}}/scripts"),
            Endpoint(f"{script}/deployments", self.deployments, methods=["GET"]),
            Endpoint(f"{script}/deployments", self.deploy_version, methods=["POST"]),
            Endpoint(f"{script}/versions", self.put_version, methods=["POST"]),
            Endpoint(f"{script}/script-settings", self.script_settings, methods=["GET", "PATCH"]),
            Endpoint(f"{script}/references", self.references, methods=["GET"]),
            Endpoint(f"{script}/subdomain", self.subdomain, methods=["GET", "POST"]),
            Endpoint(f"{workers}/services/{{name}}", self.service, methods=["GET"]),
            Endpoint(f"{workers}/services/{{name}}", self.delete, methods=["DELETE"]),
            Endpoint(f"{workers}/tails/by-consumer/{{name}}", self.tails, methods=["GET"]),
            Endpoint(f"{workers}/subdomain", self.account_subdomain, methods=["GET"]),
        ]

    def _anywhere(self, scripts: str) -> list[Endpoint]:
        """What there is for the account's own scripts and for those in a dispatch namespace."""
        script = f"{scripts}/{{name}}"
        return [
            Endpoint(scripts, self.listing, methods=["GET"]),
            Endpoint(script, self.put, methods=["PUT"]),
            Endpoint(script, self.content, methods=["GET"]),
            Endpoint(script, self.delete, methods=["DELETE"]),
            Endpoint(f"{script}/settings", self.settings, methods=["GET"]),
            Endpoint(f"{script}/tags", self.tags, methods=["GET"]),
            Endpoint(f"{script}/secrets", self.secrets, methods=["GET"]),
            Endpoint(f"{script}/secrets", self.put_secret, methods=["PUT"]),
            Endpoint(f"{script}/secrets-bulk", self.patch_secrets, methods=["PATCH"]),
            Endpoint(f"{script}/secrets/{{secret:path}}", self.secret, methods=["GET", "DELETE"]),
        ]

    def _namespace(self, request: Request) -> str | None:
        namespace: str | None = request.path_params.get("namespace")
        if namespace is not None and namespace not in self._store.dispatch_namespaces:
            raise namespace_not_found()
        return namespace

    def _key(self, request: Request) -> str:
        return script_key(request.path_params["name"], self._namespace(request))

    def _script(self, request: Request) -> Script:
        script = self._store.scripts.get(self._key(request))
        if script is None:
            raise script_not_found()
        return script

    async def listing(self, request: Request) -> JSONResponse:
        wanted = request.query_params.get("tags")
        namespace = self._namespace(request)
        found = [
            schemas.script(script)
            for script in sorted(self._store.scripts.values(), key=lambda s: s.name)
            if script.namespace == namespace and (not wanted or schemas.has_tags(script, wanted))
        ]
        return schemas.success(found)

    async def put(self, request: Request) -> JSONResponse:
        async with self._locks[self._key(request)]:
            script, startup_ms = await self._accept(request)
            await self._deploy(script)
        return schemas.success(schemas.upload(script, startup_ms))

    async def put_version(self, request: Request) -> JSONResponse:
        async with self._locks[self._key(request)]:
            self._script(request)
            script, startup_ms = await self._accept(request)
        return schemas.success(schemas.version(script, startup_ms))

    async def deploy_version(self, request: Request) -> JSONResponse:
        body = await read_json(request, DeploymentBody)
        if len(body.versions) != 1 or body.versions[0].percentage != 100:
            raise bad_request("Only one version with all of the traffic can be deployed here.")
        version_id = body.versions[0].version_id
        async with self._locks[self._key(request)]:
            current = self._script(request)
            if version_id != current.version.id:
                uploaded = self._store.uploaded_version(current.name, version_id)
                if uploaded is None:
                    raise version_not_found()
                await self._deploy(
                    msgspec.structs.replace(
                        current,
                        version=uploaded.version,
                        bindings=uploaded.bindings,
                        modified_at_ms=upload.now_ms(),
                    )
                )
        return schemas.success(schemas.deployment(self._script(request)))

    async def _accept(self, request: Request) -> tuple[Script, int]:
        """The uploaded version, tried and on disk but not in use, and how long it took to start."""
        metadata, parts = await read_upload(request)
        current = self._store.scripts.get(self._key(request))
        script, files = await asyncio.to_thread(
            upload.plan,
            request.path_params["name"],
            self._namespace(request),
            metadata,
            parts,
            current,
            upload.Others(set(self._store.scripts), set(self._store.dispatch_namespaces)),
            inherit_strictly=request.query_params.get("bindings_inherit") == "strict",
        )
        await asyncio.to_thread(self._store.write_version, script, files)
        began = time.monotonic()
        try:
            await self._workers.trial(script)
        except BaseException as error:
            self._store.discard(script, known=current is not None)
            if isinstance(error, WorkerFailedToStart):
                raise script_refused(str(error)) from None
            raise
        return script, round((time.monotonic() - began) * 1000)

    async def _deploy(self, script: Script) -> None:
        await self._put(script)
        self._store.forget_versions(script)

    async def _put(self, script: Script) -> None:
        self._store.save(script)
        await self._workers.replace(script)
        await self._workers.refresh(script)

    async def content(self, request: Request) -> Response:
        script = self._script(request)
        boundary = script.version.id
        body = bytearray()
        for module in script.version.modules:
            file_name = quote(module.name, safe="/._-")
            body += (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{file_name}"; '
                f'filename="{file_name}"\r\n\r\n'
            ).encode()
            body += (self._store.version_dir(script) / module.file).read_bytes() + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        return Response(bytes(body), media_type=f"multipart/form-data; boundary={boundary}")

    async def delete(self, request: Request) -> JSONResponse:
        async with self._locks[self._key(request)]:
            script = self._script(request)
            scripts = self._store.scripts.values()
            callers = schemas.references(script.key, scripts)["services"]["incoming"]
            if callers and request.query_params.get("force") != "true":
                raise bad_request(
                    f"Worker '{script.name}' is used by other Workers' service bindings: "
                    "delete those first, or use force.",
                    10064,
                )
            await self._workers.remove(script)
            self._store.delete(script)
            await self._workers.refresh(script)
        return schemas.success(None)

    async def settings(self, request: Request) -> JSONResponse:
        return schemas.success(schemas.settings(self._script(request)))

    async def tags(self, request: Request) -> JSONResponse:
        return schemas.success(self._script(request).tags)

    async def script_settings(self, request: Request) -> JSONResponse:
        script = self._script(request)
        if request.method == "PATCH":
            body = await read_json(request, ScriptSettingsBody)
            async with self._locks[script.name]:
                script = self._script(request)
                if body.tags is not None:
                    upload.check_tags(body.tags)
                    script = msgspec.structs.replace(script, tags=body.tags)
                    self._store.save(script)
        return schemas.success({"logpush": False, "tail_consumers": [], "tags": script.tags})

    async def deployments(self, request: Request) -> JSONResponse:
        return schemas.success({"deployments": [schemas.deployment(self._script(request))]})

    async def references(self, request: Request) -> JSONResponse:
        script = self._script(request)
        return schemas.success(schemas.references(script.name, self._store.scripts.values()))

    async def service(self, request: Request) -> JSONResponse:
        script = self._store.scripts.get(request.path_params["name"])
        if script is None:
            raise service_not_found()
        return schemas.success(schemas.service(script))

    async def tails(self, request: Request) -> JSONResponse:
        self._script(request)
        return schemas.success([])

    async def account_subdomain(self, _request: Request) -> JSONResponse:
        return schemas.success({"subdomain": self._account_subdomain})

    async def subdomain(self, request: Request) -> JSONResponse:
        if request.method == "GET":
            return schemas.success(schemas.subdomain(self._script(request)))
        body = await read_json(request, SubdomainBody)
        async with self._locks[self._key(request)]:
            script = msgspec.structs.replace(
                self._script(request),
                subdomain_enabled=body.enabled,
                previews_enabled=bool(body.previews_enabled),
            )
            self._store.save(script)
        return schemas.success(schemas.subdomain(script))

    async def secrets(self, request: Request) -> JSONResponse:
        script = self._script(request)
        return schemas.success([b.public() for b in script.bindings if upload.is_secret(b)])

    async def put_secret(self, request: Request) -> JSONResponse:
        body = await read_json(request, SecretBody)
        async with self._locks[self._key(request)]:
            script = upload.with_secret(self._script(request), body.name, body.text)
            await self._put(script)
        return schemas.success({"name": body.name, "type": "secret_text"})

    async def patch_secrets(self, request: Request) -> JSONResponse:
        body = await read_json(request, SecretsBody)
        async with self._locks[self._key(request)]:
            script = upload.with_secrets(
                self._script(request),
                {name: value and value.text for name, value in body.secrets.items()},
            )
            await self._put(script)
        return schemas.success([b.public() for b in script.bindings if upload.is_secret(b)])

    async def secret(self, request: Request) -> JSONResponse:
        name = request.path_params["secret"]
        async with self._locks[self._key(request)]:
            script = self._script(request)
            found = next((b for b in script.bindings if b.name == name), None)
            if found is None or not upload.is_secret(found):
                raise binding_not_found(name)
            if request.method == "GET":
                return schemas.success(found.public())
            kept = [b for b in script.bindings if b is not found]
            script = msgspec.structs.replace(script, bindings=kept, modified_at_ms=upload.now_ms())
            await self._put(script)
        return schemas.success(None)


class TrafficBody(msgspec.Struct):
    version_id: str
    percentage: float


class DeploymentBody(msgspec.Struct):
    versions: list[TrafficBody]


class ScriptSettingsBody(msgspec.Struct):
    tags: list[str] | None = None


class SubdomainBody(msgspec.Struct):
    enabled: bool
    previews_enabled: bool | None = None


class SecretBody(msgspec.Struct):
    name: str
    text: str


class SecretsBody(msgspec.Struct):
    """A JSON merge patch: a secret that is null is removed."""

    secrets: dict[str, SecretBody | None]
