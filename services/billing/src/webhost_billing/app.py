"""The composition root: the one place where adapters meet handlers."""

from webhost_contracts.entitlements import load_tiers
from webhost_kit.bus.commands import Subscribers
from webhost_kit.bus.connection import connect
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.process.service import Service

from webhost_billing.handlers import Handlers
from webhost_billing.projection import UsageProjection
from webhost_billing.rebuild import Rebuilder
from webhost_billing.settings import Settings
from webhost_billing.subscribers import RebuildRequests, register


async def compose(service: Service, settings: Settings) -> None:
    """Add billing's parts to the service."""
    nats_url = settings.nats_url.get_secret_value()
    bus = service.add("bus", await connect(nats_url, service.name))
    database = service.add("database", Database(settings.database_url.get_secret_value()))
    projection = service.add("projection", UsageProjection(database, bus, settings.rules()))
    service.add("relay", Relay(database.dsn, bus))
    rebuilder = Rebuilder(database, bus, projection.swapped)
    service.work("cleanup", rebuilder.clean_up)
    service.add("rebuilds", RebuildRequests(bus, rebuilder))
    subscribers = service.add("requests", Subscribers(nats_url, service.name))
    register(subscribers.broker, Handlers(database, load_tiers(settings.webhost_tiers_file)))
    await subscribers.start()
