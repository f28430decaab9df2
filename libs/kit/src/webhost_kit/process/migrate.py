"""`python -m webhost_kit.process.migrate SERVICE` brings a schema to its program's version.

Run it before the service's new version is started, with the role that owns the schema; the service
itself is given only what its own role needs (see `webhost_kit.database.migrations`). Repeating it
changes nothing, and a later version's schema is left as it is. Ends with 1 where the upgrade fails,
with 78 where the environment is wrong.
"""

import argparse
import sys
from importlib.util import find_spec

import structlog
from pydantic import SecretStr, model_validator

from webhost_kit.database.migrations import migrate, role_of
from webhost_kit.database.revisions import newest_revision, package_of
from webhost_kit.process.observability import configure_logging
from webhost_kit.process.settings import DatabaseSettings, load
from webhost_kit.process.stopping import end_when_told


class MigrationSettings(DatabaseSettings):
    """Variables are the fields' names in upper case."""

    migrations_database_url: SecretStr
    """The Postgres DSN of the role that owns the service's schema."""

    @model_validator(mode="after")
    def _owner_is_verified(self) -> "MigrationSettings":
        self.require_verified("MIGRATIONS_DATABASE_URL", self.migrations_database_url)
        return self


def main(arguments: list[str]) -> None:
    """Migrate the one service that is named."""
    parser = argparse.ArgumentParser(
        prog="python -m webhost_kit.process.migrate",
        description="Bring a service's schema to this program's version, as"
        " MIGRATIONS_DATABASE_URL, and grant the role of DATABASE_URL what it needs.",
    )
    parser.add_argument("service", help="whose schema it is, such as api")
    service: str = parser.parse_args(arguments).service
    if find_spec(package_of(service)) is None:
        parser.error(f"there is no service {service!r}")
    end_when_told()
    settings = load(MigrationSettings, "webhost-migrate")
    configure_logging(f"migrate {service}", log_format="console", level="info")
    try:
        role = role_of(settings.database_url.get_secret_value())
        upgraded = migrate(
            settings.migrations_database_url.get_secret_value(), package_of(service), role
        )
    except (RuntimeError, ValueError) as error:
        sys.exit(f"webhost-migrate: {error}")
    newest = newest_revision(package_of(service))
    log = structlog.get_logger()
    if upgraded:
        log.info("migrated", service=service, revision=newest, granted_to=role)
    else:
        log.info("nothing was migrated or granted: the schema is of a later version", ours=newest)


if __name__ == "__main__":
    main(sys.argv[1:])
