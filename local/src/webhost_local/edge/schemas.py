"""How the Cloudflare API shows scripts, routes and answers. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from starlette.responses import JSONResponse

from webhost_local.edge.errors import ApiError
from webhost_local.edge.model import Binding, DispatchNamespace, Route, Script


def success(result: Any, status: int = 200) -> JSONResponse:
    body: dict[str, Any] = {"success": True, "errors": [], "messages": [], "result": result}
    if isinstance(result, list):
        count = len(cast(list[Any], result))
        body["result_info"] = {
            "page": 1,
            "per_page": max(count, 100),
            "count": count,
            "total_count": count,
            "total_pages": 1,
        }
    return JSONResponse(body, status)


def failure(error: ApiError) -> JSONResponse:
    body = {
        "success": False,
        "errors": [{"code": error.code, "message": error.message}],
        "messages": [],
        "result": None,
    }
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return JSONResponse(body, error.status, headers)


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def script(value: Script) -> dict[str, Any]:
    """A script in a list, and the answer to an upload."""
    shown: dict[str, Any] = {
        "id": value.name,
        "tag": value.id,
        "etag": value.version.id.replace("-", ""),
        "deployment_id": value.version.id,
        "created_on": iso(value.created_at_ms),
        "modified_on": iso(value.modified_at_ms),
        "handlers": ["fetch"],
        "has_modules": True,
        "has_assets": False,
        "logpush": False,
        "usage_model": "standard",
        "compatibility_date": value.version.compatibility_date,
        "compatibility_flags": value.version.compatibility_flags,
        "last_deployed_from": "wrangler",
        "tags": value.tags,
    }
    if value.migration_tag is not None:
        shown["migration_tag"] = value.migration_tag
    return shown


def upload(value: Script, startup_ms: int) -> dict[str, Any]:
    main = value.version.modules[0].name
    return script(value) | {"entry_point": main, "startup_time_ms": startup_ms}


def dispatch_namespace(value: DispatchNamespace, scripts: int) -> dict[str, Any]:
    created = iso(value.created_at_ms)
    return {
        "namespace_id": value.id,
        "namespace_name": value.name,
        "created_on": created,
        "modified_on": created,
        "created_by": value.id,
        "modified_by": value.id,
        "script_count": scripts,
        "trusted_workers": False,
    }


def settings(value: Script) -> dict[str, Any]:
    return {
        "bindings": [binding(b, value) for b in value.bindings],
        "compatibility_date": value.version.compatibility_date,
        "compatibility_flags": value.version.compatibility_flags,
        "migration_tag": value.migration_tag,
        "tags": value.tags,
        "usage_model": "standard",
        "logpush": False,
        "placement": {},
        "tail_consumers": [],
    }


def binding(value: Binding, owner: Script) -> dict[str, Any]:
    namespace = owner.namespaces.get(value.class_name) if value.class_name else None
    return value.public(namespace.key if namespace else None)


def service(value: Script) -> dict[str, Any]:
    environment = {
        "environment": "production",
        "created_on": iso(value.created_at_ms),
        "modified_on": iso(value.modified_at_ms),
        "script": script(value),
    }
    return {
        "id": value.name,
        "created_on": iso(value.created_at_ms),
        "modified_on": iso(value.modified_at_ms),
        "default_environment": environment,
        "environments": [environment],
    }


def version(value: Script, startup_ms: int) -> dict[str, Any]:
    """The answer to an upload that is not deployed yet."""
    created = iso(value.version.created_at_ms)
    return {
        "id": value.version.id,
        "number": 1,
        "metadata": {"created_on": created, "modified_on": created, "source": "wrangler"},
        "resources": {"script": {"etag": value.version.id.replace("-", ""), "handlers": ["fetch"]}},
        "startup_time_ms": startup_ms,
    }


def deployment(value: Script) -> dict[str, Any]:
    """The one deployment there is: all of the traffic to the current version."""
    return {
        "id": value.version.id,
        "created_on": iso(value.version.created_at_ms),
        "source": "api",
        "strategy": "percentage",
        "versions": [{"version_id": value.version.id, "percentage": 100}],
        "annotations": {},
        "author_email": "local@localhost",
    }


def subdomain(value: Script) -> dict[str, bool]:
    return {"enabled": value.subdomain_enabled, "previews_enabled": value.previews_enabled}


def references(name: str, scripts: Iterable[Script]) -> dict[str, Any]:
    incoming = [
        {"service": other.name, "environment": "production", "name": b.name}
        for other in scripts
        for b in other.bindings
        if b.service == name and other.name != name
    ]
    return {
        "services": {"incoming": incoming, "outgoing": []},
        "durable_objects": [],
        "dispatch_outbounds": [],
    }


def route(value: Route) -> dict[str, Any]:
    return {"id": value.id, "pattern": value.pattern, "script": value.script}


def has_tags(value: Script, wanted: str) -> bool:
    """Whether a script passes the filter: comma-separated `tag:yes` and `tag:no`."""
    for term in wanted.split(","):
        tag, _, allowed = term.rpartition(":")
        if (tag in value.tags) != (allowed == "yes"):
            return False
    return True
