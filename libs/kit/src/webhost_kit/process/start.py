"""The entry of every service's process: settings, logs, schema, then the service."""

# Before what would load more.
import webhost_kit.process.lean  # noqa: F401  # pyright: ignore[reportUnusedImport]

# isort: split
import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from webhost_kit.database.migrations import migrate, wait_for_schema
from webhost_kit.database.revisions import package_of
from webhost_kit.process.observability import configure_logging
from webhost_kit.process.service import Service
from webhost_kit.process.settings import ServiceSettings, load
from webhost_kit.process.stopping import end_when_told
from webhost_kit.process.trace_export import TraceExport

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=ServiceSettings)


def start(
    name: str, settings_class: type[S], compose: Callable[[Service, S], Awaitable[None]]
) -> None:
    """Run the service `name` until it is told to stop.

    `compose` adds the service's parts. The service's package is `webhost_<name>`, and holds its
    migrations: it waits until they were run (`webhost_kit.process.migrate`).
    """
    end_when_told()
    package = package_of(name)
    settings = load(settings_class, f"webhost-{name}")
    # What Postgres shows of connections that say nothing else of themselves.
    os.environ.setdefault("PGAPPNAME", f"webhost-{name}")
    configure_logging(name, log_format=settings.log_format, level=settings.log_level)
    if (allowed := settings.opt_outs()) and not settings.webhost_local_stack:
        log.warning("protection switched off", by=allowed)
    dsn = settings.database_url.get_secret_value()
    if settings.migrate_at_start:
        migrate(dsn, package)
    wait_for_schema(dsn, package)

    async def main() -> None:
        service = Service(name, drain_s=settings.drain_s)
        trace(service, settings)
        await compose(service, settings)
        service.serve_operations(settings.ops_listen)
        await service.run()

    with asyncio.Runner(loop_factory=_uvloop) as runner:
        runner.run(main())


def trace(service: Service, settings: ServiceSettings) -> None:
    """Record what the service does, where a collector is configured; first, to end last."""
    endpoint, headers = settings.otel_exporter_otlp_endpoint, settings.otel_exporter_otlp_headers
    if endpoint is not None:
        service.add(
            "traces",
            TraceExport(
                service.name,
                endpoint,
                "" if headers is None else headers.get_secret_value(),
                settings.otel_traces_sampler_arg,
                settings.webhost_installation_id,
            ),
        )


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
