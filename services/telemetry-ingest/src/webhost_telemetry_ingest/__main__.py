"""Runs telemetry-ingest: `python -m webhost_telemetry_ingest`."""

from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.service import run
from webhost_kit.settings import load

from webhost_telemetry_ingest.app import main
from webhost_telemetry_ingest.settings import Settings

if __name__ == "__main__":
    settings = load(Settings, "webhost-telemetry-ingest")
    configure_logging("telemetry-ingest", log_format=settings.log_format, level=settings.log_level)
    migrate(settings.database_url.get_secret_value(), "webhost_telemetry_ingest")
    run(main(settings))
