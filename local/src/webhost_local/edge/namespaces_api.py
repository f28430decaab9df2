"""The Cloudflare API's endpoints to dispatch namespaces: list, create, read, delete."""

import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route as Endpoint

from webhost_local.edge import schemas, upload
from webhost_local.edge.errors import ApiError, bad_request, namespace_not_found
from webhost_local.edge.model import DispatchNamespace
from webhost_local.edge.requests import read_json
from webhost_local.edge.store import Store


class NamespaceBody(msgspec.Struct):
    name: str


class NamespaceEndpoints:
    """All namespaces here are untrusted ones. One that has scripts is not deleted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def endpoints(self, account: str) -> list[Endpoint]:
        namespaces = f"{account}/workers/dispatch/namespaces"
        return [
            Endpoint(namespaces, self.listing, methods=["GET"]),
            Endpoint(namespaces, self.create, methods=["POST"]),
            Endpoint(f"{namespaces}/{{namespace}}", self.get, methods=["GET"]),
            Endpoint(f"{namespaces}/{{namespace}}", self.delete, methods=["DELETE"]),
        ]

    async def listing(self, _request: Request) -> JSONResponse:
        return schemas.success([self._shown(s) for s in self._store.dispatch_namespaces.values()])

    async def create(self, request: Request) -> JSONResponse:
        name = (await read_json(request, NamespaceBody)).name
        upload.check_name(name)
        if name in self._store.dispatch_namespaces:
            raise ApiError(409, 100120, "A dispatch namespace with this name already exists.")
        created = DispatchNamespace(uuid.uuid4().hex, name, upload.now_ms())
        self._store.save_dispatch_namespaces({**self._store.dispatch_namespaces, name: created})
        return schemas.success(self._shown(created))

    async def get(self, request: Request) -> JSONResponse:
        return schemas.success(self._shown(self._namespace(request)))

    async def delete(self, request: Request) -> JSONResponse:
        space = self._namespace(request)
        if self._scripts(space):
            raise bad_request("The dispatch namespace still has scripts.", 100121)
        kept = {n: s for n, s in self._store.dispatch_namespaces.items() if n != space.name}
        self._store.save_dispatch_namespaces(kept)
        return schemas.success(None)

    def _namespace(self, request: Request) -> DispatchNamespace:
        space = self._store.dispatch_namespaces.get(request.path_params["namespace"])
        if space is None:
            raise namespace_not_found()
        return space

    def _scripts(self, space: DispatchNamespace) -> int:
        return sum(s.namespace == space.name for s in self._store.scripts.values())

    def _shown(self, space: DispatchNamespace) -> dict[str, object]:
        return schemas.dispatch_namespace(space, self._scripts(space))
