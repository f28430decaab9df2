"""The one public origin.

Consumes every public request. `<script>.<subdomain>.workers.dev` as Host leads to that script;
`/v1/…` to the services; a path that a route of the zone matches to the route's script. The edge's
own errors use the error envelope, with an X-Request-Id. The services are told the client's address
in X-Forwarded-For, which replaces what a client sends.
"""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Iterable
from typing import Any

import aiohttp
from webhost_kit.tasks import cancel

from webhost_local.edge.errors import ScriptGone, WorkerFailedToStart
from webhost_local.edge.model import Route
from webhost_local.edge.proxy import Exchange, Receive, Scope, Send, UpstreamAway
from webhost_local.edge.replicas import ReadinessWatch, Replicas
from webhost_local.edge.settings import EdgeSettings
from webhost_local.edge.store import Store
from webhost_local.edge.workers import Workers

REQUEST_ID = re.compile(rb"^[A-Za-z0-9_.:-]{1,128}$")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
# Shorter than the 5 s after which uvicorn closes idle connections.
UPSTREAM_KEEPALIVE_SECONDS = 3.0

log = logging.getLogger("webhost.edge.origin")


class RouteTable:
    """Finds a request's route: the longest pattern that matches wins.

    `*` is allowed at the start of the host and at the end of the path. A loopback Host matches
    every pattern's host, since such names do not resolve everywhere.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_prefix: dict[str, list[tuple[str, Route]]] = {}
        self._exact: dict[str, list[tuple[str, Route]]] = {}
        for route in routes:
            host, _, path = route.pattern.rpartition("://")[2].partition("/")
            path = f"/{path}"
            table, key = (self._by_prefix, path[:-1]) if path.endswith("*") else (self._exact, path)
            table.setdefault(key, []).append((host.lower(), route))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix}, reverse=True)

    def match(self, host: str, path: str) -> Route | None:
        if found := _of_host(self._exact.get(path, ()), host):
            return found
        for length in self._lengths:
            if length <= len(path):
                found = _of_host(self._by_prefix.get(path[:length], ()), host)
                if found is not None:
                    return found
        return None


def _of_host(candidates: Iterable[tuple[str, Route]], host: str) -> Route | None:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    for pattern, route in sorted(candidates, key=lambda c: len(c[0]), reverse=True):
        if name in LOOPBACK or pattern in (host, name):
            return route
        if pattern.startswith("*") and name.endswith(pattern[1:]):
            return route
    return None


class Origin:
    """Raw ASGI application; call `open` in the running loop before the first request."""

    def __init__(self, settings: EdgeSettings, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._workers_dev = f".{settings.workers_dev_subdomain}.workers.dev".lower()
        gateway = Replicas(settings.replicas(settings.upstream_gateway))
        self._upstreams = (
            ("/v1/invoke/", gateway),
            ("/v1/delegated/", gateway),
            ("/v1/telemetry/", Replicas(settings.replicas(settings.upstream_telemetry))),
            ("/v1/", Replicas(settings.replicas(settings.upstream_api))),
        )
        services = dict.fromkeys(replicas for _, replicas in self._upstreams)
        self._watch = ReadinessWatch(services, settings.readiness)
        self._watching: asyncio.Task[None]
        self._session: aiohttp.ClientSession
        self.routes_changed()

    def routes_changed(self) -> None:
        self._routes = RouteTable(self._store.routes.values())

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=UPSTREAM_KEEPALIVE_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._watching = asyncio.create_task(self._watch.run(self._session))

    async def close(self) -> None:
        await cancel(self._watching)
        await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        host = _header(scope, b"host").decode("latin-1").lower()
        path: str = scope["path"]
        exchange = Exchange(scope, receive, send)
        script = self._script_of_host(host)
        if script is None and path.startswith("/v1/"):
            await self._to_service(exchange, path, send)
            return
        if script is None and (route := self._routes.match(host, path)) is not None:
            script = route.script
        if script is None:
            await _refuse(scope, send, 404, "NOT_FOUND", "Nothing is served at this path.")
            return
        await self._to_script(exchange, script, send)

    def _script_of_host(self, host: str) -> str | None:
        name, _, port = host.rpartition(":")
        name = name if port.isdigit() and name else host
        if not name.endswith(self._workers_dev):
            return None
        script = self._store.scripts.get(name.removesuffix(self._workers_dev))
        return script.name if script is not None and script.subdomain_enabled else ""

    async def _to_service(self, exchange: Exchange, path: str, send: Send) -> None:
        _state_client(exchange.scope)
        replicas = next(found for prefix, found in self._upstreams if path.startswith(prefix))
        for base in replicas.in_turn():
            try:
                await exchange.forward(self._session, base)
                return
            except UpstreamAway as away:
                if away.sent:
                    break
                replicas.heard(base, ready=False)
        message = "The service is unavailable. Try again shortly."
        await _refuse(exchange.scope, send, 503, "UNAVAILABLE", message, retryable=True)

    async def _to_script(self, exchange: Exchange, name: str, send: Send) -> None:
        # Retried once if the process has just died and has not received the request.
        for last in (False, True):
            try:
                async with self._workers.use(name) as process:
                    try:
                        await exchange.forward(process.session, "http://worker")
                    except UpstreamAway as away:
                        if away.sent or last:
                            break
                        await self._workers.died(name, process)
                        continue
                return
            except ScriptGone:
                message = "There is no Worker at this address."
                await _refuse(exchange.scope, send, 404, "NOT_FOUND", message)
                return
            except WorkerFailedToStart as error:
                log.error("worker %s did not start: %s", name, error)
                break
        await _refuse(exchange.scope, send, 502, "RUNTIME_ERROR", "The Worker gave no answer.")


def _state_client(scope: Scope) -> None:
    """Say who asks; what the client says of itself is dropped."""
    headers = [header for header in scope["headers"] if header[0] != b"x-forwarded-for"]
    if client := scope.get("client"):
        headers.append((b"x-forwarded-for", client[0].encode()))
    scope["headers"] = headers


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _refuse(
    scope: Scope, send: Send, status: int, code: str, message: str, *, retryable: bool = False
) -> None:
    given = _header(scope, b"x-request-id")
    request_id = given.decode() if REQUEST_ID.match(given) else f"req_{uuid.uuid4().hex}"
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "retryable": retryable,
        "details": {},
        "requestId": request_id,
    }
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
    ]
    if retryable:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
