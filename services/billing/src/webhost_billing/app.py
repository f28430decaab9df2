"""The composition root: the one place where adapters meet handlers."""

from webhost_contracts.entitlements import load_tiers
from webhost_kit.bus.connection import connect
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.process.service import Service

from webhost_billing import projection
from webhost_billing.charging import load_prices
from webhost_billing.handlers import Handlers
from webhost_billing.rebuild import Rebuilder
from webhost_billing.settings import Settings
from webhost_billing.subscribers import RebuildRequests, register
from webhost_billing.totals import TotalsPublisher


async def compose(service: Service, settings: Settings) -> None:
    """Add billing's parts to the service."""
    nats_url = settings.nats_url.get_secret_value()
    bus = service.add("bus", await connect(nats_url, service.name))
    database = service.add("database", Database(settings.database_url.get_secret_value()))
    prices = load_prices(settings.webhost_prices_file)
    totals = service.add("totals", TotalsPublisher(database, bus))
    service.add("projection", projection.projector(database, bus, prices, totals.wake))
    service.add("relay", Relay(database.dsn, bus))
    rebuilder = Rebuilder(database, bus, prices, totals.wake)
    service.work("cleanup", rebuilder.clean_up)
    rebuilds = service.add("rebuilds", RebuildRequests(bus, rebuilder))
    requests = service.add("requests", RequestServer(nats_url, service.name))
    register(requests, Handlers(database, load_tiers(settings.webhost_tiers_file)), rebuilds)
    await requests.start()
