"""Brings a service's schema to its program's version, before the service starts."""

import multiprocessing
import sys
import time
from importlib import resources

import structlog
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.exc import OperationalError

from webhost_kit.database.engine import connect_arguments, sqlalchemy_url

log = structlog.get_logger(__name__)

RETRY_S = 1.0
_LOCK = 0x7765_6268
_AWAY = 75
"""What the child ends with when it may be tried again (EX_TEMPFAIL)."""


def migrate(dsn: str, package: str) -> None:
    """Upgrade the schema in a child, so that what an upgrade loads does not stay in memory.

    While Postgres is away, waits. Raises RuntimeError when the upgrade fails.
    """
    # Nothing runs beside this yet: a fork has what it needs loaded already.
    forking = multiprocessing.get_context("fork")
    while True:
        child = forking.Process(target=_upgrade_or_exit, args=(dsn, package))
        child.start()
        child.join()
        if child.exitcode == 0:
            return
        if child.exitcode != _AWAY:
            raise RuntimeError(f"the migrations of {package} failed")
        time.sleep(RETRY_S)


def upgrade(dsn: str, package: str) -> None:
    """Upgrade the schema; one process at a time, waiting for its turn.

    `package` holds the migrations in its folder `migrations`. Raises OperationalError while
    Postgres is away.
    """
    from alembic import command
    from alembic.config import Config

    engine = create_engine(sqlalchemy_url(dsn), connect_args=connect_arguments())
    try:
        with (
            resources.as_file(resources.files(package).joinpath("migrations")) as folder,
            engine.connect() as connection,
        ):
            connection.execute(
                text("SELECT pg_advisory_lock(:key, hashtext(current_schema()))"), {"key": _LOCK}
            )
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(folder))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()


def run() -> None:
    """Run from a service's `migrations/env.py`: one transaction, on the connection given."""
    from alembic import context

    context.configure(connection=context.config.attributes["connection"])
    with context.begin_transaction():
        context.run_migrations()


def create_tables(metadata: MetaData) -> None:
    """Create what the metadata declares; for a first migration, so that nothing is declared twice.

    What DDL has beyond tables and indexes is attached to a table as an `after_create` listener.
    """
    from alembic import op

    metadata.create_all(op.get_bind(), checkfirst=False)


def _upgrade_or_exit(dsn: str, package: str) -> None:
    try:
        upgrade(dsn, package)
    except OperationalError as error:
        log.warning("waiting for the database", error=str(error).partition("\n")[0])
        sys.exit(_AWAY)
