"""telemetry-ingest without the publish: the limit that the real one is compared with.

Its door, checks, projection and memory are the service's own; only the batcher answers at once.
"""

from webhost_kit.bus import connect
from webhost_kit.database import Database
from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.publishing import Message
from webhost_kit.service import Service, run
from webhost_kit.settings import load
from webhost_telemetry_ingest import projection
from webhost_telemetry_ingest.batcher import Batcher
from webhost_telemetry_ingest.reports import Reports
from webhost_telemetry_ingest.routes import Door
from webhost_telemetry_ingest.settings import Settings


class AcknowledgesAtOnce(Batcher):
    """Drops what it is given."""

    async def add(self, message: Message) -> None:
        """Return, as if the message were durable."""


async def main(settings: Settings) -> None:
    """Run until told to stop."""
    service = Service("unpublished")
    bus = await connect(settings.nats_url.get_secret_value(), "unpublished")
    service.stack.push_async_callback(bus.close)
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    service.stack.push_async_callback(database.close)
    deployments, position = await projection.load(database)
    follower = projection.follower(bus, deployments)
    service.door(
        Door(Reports(settings.master_keys, deployments, AcknowledgesAtOnce(bus))), settings.listen
    )
    service.operations_door(settings.ops_listen)
    service.work("projection", projection.projector(database, bus).run())
    service.work("deployments", follower.run(position))
    service.readiness.add("deployments", follower.check)
    await service.run()


if __name__ == "__main__":
    loaded = load(Settings, "unpublished")
    configure_logging("unpublished", log_format=loaded.log_format, level=loaded.log_level)
    migrate(loaded.database_url.get_secret_value(), "webhost_telemetry_ingest")
    run(main(loaded))
