"""The composition root: the one place where adapters meet handlers."""

from webhost_contracts import subjects
from webhost_kit.bus.connection import connect
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.outbox_watch import OutboxWatch
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.process.maintenance import Maintenance
from webhost_kit.process.service import Service

from webhost_billing import recovery
from webhost_billing.handlers import Handlers
from webhost_billing.projection import UsageProjection
from webhost_billing.rebuild.rebuilder import Rebuilder
from webhost_billing.retention import Retention
from webhost_billing.seals.idle import IdlePartitions
from webhost_billing.series.handlers import SeriesHandlers
from webhost_billing.settings import Settings
from webhost_billing.subscribers import RebuildRequests, register, register_payments
from webhost_billing.subscriptions.endings import Endings
from webhost_billing.subscriptions.handlers import SubscriptionHandlers
from webhost_billing.subscriptions.reconciliation import Reconciliation
from webhost_billing.verifying import Inspection


async def compose(service: Service, settings: Settings) -> None:
    """Add billing's parts to the service."""
    nats_url = settings.nats_url.get_secret_value()
    bus = service.add("bus", await connect(nats_url, service.name, replicas=settings.nats_replicas))
    needs = (subjects.EVENTS, subjects.USAGE, subjects.TOTALS_STREAM)
    streams = service.add("streams", StreamWatch(bus, needs))
    database = service.add("database", Database(settings.database_url.get_secret_value()))
    own_facts = service.add(
        "own-facts",
        OwnFacts(
            service.name, database, bus, recovery.OWN_SUBJECTS, recovery.TYPES, recovery.recover
        ),
    )
    rules, tiers = settings.rules(), settings.tiers()
    projection = service.add("projection", UsageProjection(database, bus, streams, rules, tiers))
    service.add("relay", Relay(database.dsn, bus, own_facts.check))
    service.add("outbox", OutboxWatch(database))
    retention = Retention(database, tiers)
    service.work("retention", retention.run)
    rebuilder = Rebuilder(database, bus, rules, projection.swapped, retention.remove_old)
    service.work("cleanup", rebuilder.clean_up)
    service.work("idle", IdlePartitions(database, bus, rules).run)
    projectors = list(projection.projectors.values())
    service.add("maintenance", Maintenance(service.name, bus, database, projectors, own_facts))
    rebuilds = service.add("rebuilds", RebuildRequests(bus, rebuilder))
    requests = service.add("requests", RequestServer(nats_url, service.name))
    handlers = Handlers(database, tiers, settings.webhost_installation_id)
    series = SeriesHandlers(database, rules.prices)
    inspection = Inspection(database, bus, projection.projectors)
    register(requests, handlers, rebuilds, series, inspection)
    provider = settings.provider()
    if provider is not None:
        service.add("payments", provider.client)
    endings = service.add("endings", Endings(database, tiers))
    service.work("deliveries", endings.forget)
    register_payments(
        requests,
        SubscriptionHandlers(database, tiers, provider),
        Reconciliation(database, tiers, provider),
    )
    await requests.start()
