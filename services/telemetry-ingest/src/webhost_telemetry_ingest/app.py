"""The composition root: what telemetry-ingest consists of, and in which order it ends."""

from msgspec.structs import replace
from webhost_contracts import subjects
from webhost_contracts.maintenance import KeysReply
from webhost_kit.bus.connection import connect
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.unstored import UnstoredFacts
from webhost_kit.process.keys_watch import KeysWatch
from webhost_kit.process.maintenance import Maintenance
from webhost_kit.process.service import Service

from webhost_telemetry_ingest import projection
from webhost_telemetry_ingest.batcher import ReportBatcher
from webhost_telemetry_ingest.model import Deployments
from webhost_telemetry_ingest.rate_limits import RateLimits
from webhost_telemetry_ingest.rejections import Rejections
from webhost_telemetry_ingest.reports import Reports
from webhost_telemetry_ingest.routes import ReportApp, ReportConnection
from webhost_telemetry_ingest.settings import Settings


async def compose(
    service: Service, settings: Settings, *, batcher_class: type[ReportBatcher] = ReportBatcher
) -> None:
    """Add telemetry-ingest's parts to the service."""
    bus = service.add("bus", await connect(settings.nats_url.get_secret_value(), service.name))
    service.add("streams", StreamWatch(bus, (subjects.EVENTS, subjects.USAGE)))
    database = service.add(
        "database", Database(settings.database_url.get_secret_value(), pool_size=2)
    )
    deployments = Deployments()
    projector = service.add("projection", projection.projector(database, bus))
    service.add("maintenance", Maintenance(service.name, bus, database, [projector]))
    service.add("deployments", projection.memory(bus, database, deployments))
    service.add("retention", projection.Retention(database, deployments))
    batcher = service.add("batches", batcher_class(bus))
    rate_limits = RateLimits(deployments, settings.tiers(), settings.telemetry_failures_per_minute)
    rejections = Rejections(service.add("rejections", UnstoredFacts(bus)))
    reports = Reports(settings.master_keys, deployments, rate_limits, batcher, rejections)

    async def with_deployments(reply: KeysReply) -> KeysReply:
        return replace(
            reply,
            deployments=deployments.by_master_key(),
            deployment_ids=deployments.ids_by_master_key(),
        )

    service.add(
        "keys",
        KeysWatch(
            service.name,
            bus,
            settings,
            lambda found: reports.verify_with(found.master_keys),
            with_deployments,
        ),
    )
    service.serve(
        ReportApp(reports),
        settings.listen,
        trusted_proxies=settings.trusted_proxies,
        connection=ReportConnection,
    )
