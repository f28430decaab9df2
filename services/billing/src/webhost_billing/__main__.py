"""Runs billing: `python -m webhost_billing`."""

from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.service import run
from webhost_kit.settings import load

from webhost_billing.app import main
from webhost_billing.settings import Settings

if __name__ == "__main__":
    settings = load(Settings, "webhost-billing")
    configure_logging("billing", log_format=settings.log_format, level=settings.log_level)
    migrate(settings.database_url.get_secret_value(), "webhost_billing")
    run(main(settings))
