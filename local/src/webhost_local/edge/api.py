"""The Cloudflare API, as far as the official SDK and wrangler need it for Workers and routes.

Every answer is Cloudflare's envelope. The token is checked first, then the rate limit, then that
the account and zone are ours.
"""

import hmac
import uuid
from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as Endpoint
from starlette.types import ASGIApp, Receive, Scope, Send

from webhost_local.edge import schemas
from webhost_local.edge.errors import (
    ApiError,
    authentication_failed,
    bad_request,
    malformed_authorization,
    method_not_available,
    no_route,
    not_your_account,
)
from webhost_local.edge.model import Route
from webhost_local.edge.namespaces_api import NamespaceEndpoints
from webhost_local.edge.ratelimit import ApiRateLimit
from webhost_local.edge.requests import read_json
from webhost_local.edge.scripts_api import ScriptEndpoints
from webhost_local.edge.settings import EdgeSettings
from webhost_local.edge.store import Store
from webhost_local.edge.workers import Workers

PREFIX = "/client/v4"
USER = {"id": "local-user", "email": "local@localhost"}


def build(
    settings: EdgeSettings, store: Store, workers: Workers, routes_changed: Callable[[], None]
) -> Starlette:
    """The API listener's application, with `/livez` and `/readyz` beside the API."""
    account = {"id": settings.account_id, "name": "local", "type": "standard"}

    async def verify(_request: Request) -> JSONResponse:
        return schemas.success({"id": "local-token", "status": "active"})

    async def user(_request: Request) -> JSONResponse:
        return schemas.success(USER)

    async def accounts(_request: Request) -> JSONResponse:
        return schemas.success([account])

    async def memberships(_request: Request) -> JSONResponse:
        return schemas.success(
            [{"id": "local-membership", "status": "accepted", "account": account}]
        )

    async def namespaces(_request: Request) -> JSONResponse:
        return schemas.success([])

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    path = f"/accounts/{settings.account_id}"
    endpoints = [
        Endpoint("/user", user, methods=["GET"]),
        Endpoint("/user/tokens/verify", verify, methods=["GET"]),
        Endpoint("/accounts", accounts, methods=["GET"]),
        Endpoint("/memberships", memberships, methods=["GET"]),
        Endpoint(f"{path}/tokens/verify", verify, methods=["GET"]),
        Endpoint(f"{path}/storage/kv/namespaces", namespaces, methods=["GET"]),
        *ScriptEndpoints(store, workers, settings.workers_dev_subdomain).endpoints(path),
        *NamespaceEndpoints(store).endpoints(path),
        *RouteEndpoints(store, routes_changed).endpoints(f"/zones/{settings.zone_id}"),
    ]
    handlers = {ApiError: _refused, HTTPException: _not_routed}
    api = Starlette(routes=endpoints, exception_handlers=handlers)  # type: ignore[arg-type]
    return Starlette(
        routes=[
            Endpoint("/livez", alive),
            Endpoint("/readyz", alive),
            Mount(PREFIX, Guard(api, settings)),
        ]
    )


class Guard:
    """Lets through only calls of the one token, within its rate, for the account and zone."""

    def __init__(self, app: ASGIApp, settings: EdgeSettings) -> None:
        self._app = app
        self._token = settings.api_token.get_secret_value().encode()
        self._limit = ApiRateLimit(settings.api_rate_limit)
        self._owned = {"accounts": settings.account_id, "zones": settings.zone_id}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            self._check(request)
        except ApiError as error:
            await schemas.failure(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise malformed_authorization()
        if not hmac.compare_digest(token.encode(), self._token):
            raise authentication_failed()
        self._limit.acquire()
        path = request.url.path.removeprefix(PREFIX)
        kind, _, rest = path.lstrip("/").partition("/")
        identifier = rest.partition("/")[0]
        if identifier and self._owned.get(kind, identifier) != identifier:
            raise not_your_account() if kind == "accounts" else no_route(path)


async def _refused(_request: Request, error: ApiError) -> Response:
    return schemas.failure(error)


async def _not_routed(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        return schemas.failure(method_not_available(request.method))
    return schemas.failure(no_route(request.url.path.removeprefix(PREFIX)))


class RouteBody(msgspec.Struct):
    pattern: str
    script: str | None = None


class RouteEndpoints:
    """The zone's routes. A pattern exists once; its script must exist when it is named."""

    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed

    def endpoints(self, zone: str) -> list[Endpoint]:
        routes = f"{zone}/workers/routes"
        return [
            Endpoint(routes, self.listing, methods=["GET"]),
            Endpoint(routes, self.create, methods=["POST"]),
            Endpoint(f"{routes}/{{id}}", self.get, methods=["GET"]),
            Endpoint(f"{routes}/{{id}}", self.update, methods=["PUT"]),
            Endpoint(f"{routes}/{{id}}", self.delete, methods=["DELETE"]),
        ]

    async def listing(self, _request: Request) -> JSONResponse:
        return schemas.success([schemas.route(r) for r in self._store.routes.values()])

    async def create(self, request: Request) -> JSONResponse:
        return await self._put(request, uuid.uuid4().hex)

    async def get(self, request: Request) -> JSONResponse:
        return schemas.success(schemas.route(self._route(request)))

    async def update(self, request: Request) -> JSONResponse:
        return await self._put(request, self._route(request).id)

    async def delete(self, request: Request) -> JSONResponse:
        route = self._route(request)
        self._save({i: r for i, r in self._store.routes.items() if i != route.id})
        return schemas.success({"id": route.id})

    async def _put(self, request: Request, route_id: str) -> JSONResponse:
        body = await read_json(request, RouteBody)
        host, slash, path = body.pattern.rpartition("://")[2].partition("/")
        if not host or not slash or "*" in host[1:] or "*" in path[:-1]:
            raise bad_request("Invalid route pattern.", 10022)
        others = self._store.routes.values()
        if any(r.pattern == body.pattern and r.id != route_id for r in others):
            raise ApiError(409, 10020, "A route with the same pattern already exists.")
        if body.script is not None and body.script not in self._store.scripts:
            raise bad_request("The route's script does not exist.", 10019)
        route = Route(route_id, body.pattern, body.script)
        self._save({**self._store.routes, route_id: route})
        return schemas.success(schemas.route(route))

    def _route(self, request: Request) -> Route:
        route = self._store.routes.get(request.path_params["id"])
        if route is None:
            raise ApiError(404, 10009, "The route does not exist.")
        return route

    def _save(self, routes: dict[str, Route]) -> None:
        self._store.save_routes(routes)
        self._changed()
