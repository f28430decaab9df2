"""Runs the gateway: `python -m webhost_gateway`."""

from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.service import run
from webhost_kit.settings import load

from webhost_gateway.app import main
from webhost_gateway.settings import Settings

if __name__ == "__main__":
    settings = load(Settings, "webhost-gateway")
    configure_logging("gateway", log_format=settings.log_format, level=settings.log_level)
    migrate(settings.database_url.get_secret_value(), "webhost_gateway")
    run(main(settings))
