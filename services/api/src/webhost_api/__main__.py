"""Run the api."""

from webhost_kit import service
from webhost_kit.migrations import migrate
from webhost_kit.observability import configure_logging
from webhost_kit.settings import load

from webhost_api.app import NAME, main
from webhost_api.settings import Settings

if __name__ == "__main__":
    settings = load(Settings, "webhost-api")
    configure_logging(NAME, log_format=settings.log_format, level=settings.log_level)
    migrate(settings.database_url.get_secret_value(), "webhost_api")
    service.run(main(settings))
