"""Run the deployer."""

from webhost_kit import service
from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.settings import load

from webhost_deployer.app import main
from webhost_deployer.settings import Settings


def start() -> None:
    """Load the settings, bring the schema up to date, run."""
    settings = load(Settings, "webhost-deployer")
    configure_logging("deployer", log_format=settings.log_format, level=settings.log_level)
    migrate(settings.database_url.get_secret_value(), "webhost_deployer")
    service.run(main(settings))


if __name__ == "__main__":
    start()
