"""The composition root: the one place where adapters meet handlers."""

from webhost_contracts.entitlements import load_tiers
from webhost_kit.bus import connect
from webhost_kit.commands import broker
from webhost_kit.database import Database
from webhost_kit.relay import Relay
from webhost_kit.service import Service

from webhost_billing import projection
from webhost_billing.charging import load_prices
from webhost_billing.handlers import Handlers
from webhost_billing.rebuild import Rebuilder
from webhost_billing.settings import Settings
from webhost_billing.subscribers import answer_rebuilds, register
from webhost_billing.totals import TotalsPublisher


async def main(settings: Settings) -> None:
    """Compose billing and run it until it is told to stop."""
    service = Service("billing")
    nats_url = settings.nats_url.get_secret_value()
    bus = await connect(nats_url, "billing")
    service.stack.push_async_callback(bus.close)
    database = Database(settings.database_url.get_secret_value())
    service.stack.push_async_callback(database.close)

    prices = load_prices(settings.webhost_prices_file)
    totals = TotalsPublisher(database, bus)
    projector = projection.projector(database, bus, prices, totals.wake)
    rebuilder = Rebuilder(database, bus, prices, totals.wake)
    relay = Relay(database.dsn, bus)

    questions = broker(nats_url, "billing")
    register(questions, Handlers(database, load_tiers(settings.webhost_tiers_file)))
    await questions.start()
    service.stack.push_async_callback(questions.stop)

    service.readiness.add("bus", bus.check)
    service.readiness.add("database", database.check)
    service.readiness.add("relay", relay.check)
    service.readiness.add("projection", projector.check)
    service.work("database watch", database.watch())
    service.work("projection", projector.run())
    service.work("totals", totals.run())
    service.work("relay", relay.run())
    service.work("rebuilds", answer_rebuilds(bus, rebuilder))
    service.work("sweep", rebuilder.sweep())
    service.operations_door(settings.ops_listen)
    await service.run()
