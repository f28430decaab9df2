"""telemetry-ingest without the publish: the limit that the real one is compared with.

Its endpoint, checks, projection and memory are the service's own; only the batcher answers at
once.
"""

from webhost_kit.bus.publishing import Message
from webhost_kit.process.service import Service
from webhost_kit.process.start import start
from webhost_telemetry_ingest import app
from webhost_telemetry_ingest.batcher import Batcher
from webhost_telemetry_ingest.settings import Settings


class AcknowledgesAtOnce(Batcher):
    """Drops what it is given."""

    async def add(self, message: Message) -> None:
        """Return, as if the message were durable."""


async def compose(service: Service, settings: Settings) -> None:
    """Compose telemetry-ingest around the other batcher."""
    await app.compose(service, settings, batcher_class=AcknowledgesAtOnce)


if __name__ == "__main__":
    start("telemetry-ingest", Settings, compose)
