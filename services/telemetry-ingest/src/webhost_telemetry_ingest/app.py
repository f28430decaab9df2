"""The composition root: what telemetry-ingest consists of, and in which order it ends."""

from webhost_kit.bus import connect
from webhost_kit.database import Database
from webhost_kit.service import Service

from webhost_telemetry_ingest import projection
from webhost_telemetry_ingest.batcher import Batcher
from webhost_telemetry_ingest.reports import Reports
from webhost_telemetry_ingest.routes import Door
from webhost_telemetry_ingest.settings import Settings


async def main(settings: Settings) -> None:
    """Run telemetry-ingest until it is told to stop."""
    service = Service("telemetry-ingest")
    bus = await connect(settings.nats_url.get_secret_value(), "telemetry-ingest")
    service.stack.push_async_callback(bus.close)
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    service.stack.push_async_callback(database.close)
    deployments, position = await projection.load(database)
    projector = projection.projector(database, bus)
    follower = projection.follower(bus, deployments)
    batcher = Batcher(bus)
    door = Door(Reports(settings.master_keys, deployments, batcher))
    service.door(door, settings.listen)
    service.operations_door(settings.ops_listen)
    service.work("database", database.watch())
    service.work("projection", projector.run())
    service.work("deployments", follower.run(position))
    service.work("batches", batcher.run())
    service.readiness.add("database", database.check)
    service.readiness.add("bus", bus.check)
    service.readiness.add("deployments", follower.check)
    service.readiness.add("projection", projector.check)
    await service.run()
