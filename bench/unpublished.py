"""telemetry-ingest without publishing: the limit that the real one is compared with.

Its endpoint, checks, projection and memory are the service's own; only the batcher answers at
once.
"""

from webhost_kit.process.service import Service
from webhost_kit.process.start import start
from webhost_telemetry_ingest import app
from webhost_telemetry_ingest.batcher import ReportBatcher
from webhost_telemetry_ingest.settings import Settings


class AcknowledgesAtOnce(ReportBatcher):
    """Drops what it is given."""

    async def add(self, user_id: str, envelope: bytes) -> None:
        """Return, as if the fact were durable."""


async def compose(service: Service, settings: Settings) -> None:
    """Compose telemetry-ingest around the other batcher."""
    await app.compose(service, settings, batcher_class=AcknowledgesAtOnce)


if __name__ == "__main__":
    start("telemetry-ingest", Settings, compose)
