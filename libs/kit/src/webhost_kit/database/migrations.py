"""Brings a service's schema to its program's version, before the service starts.

The role that upgrades owns the schema and all that is in it. The service's own role owns nothing:
it may read and write the tables, and append to `events`.
"""

import multiprocessing
import sys
import time
from importlib import resources

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, MetaData, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from webhost_kit.database.engine import connect_arguments, sqlalchemy_url
from webhost_kit.database.values import strip_values_of

log = structlog.get_logger(__name__)

RETRY_S = 1.0
APPEND_ONLY = "events"
"""The table of facts."""
_LOCK = 0x7765_6268
_AWAY = 75
"""What the child ends with when it may be tried again (EX_TEMPFAIL)."""


def package_of(service: str) -> str:
    """Return the package of a service, which holds its migrations."""
    return f"webhost_{service.replace('-', '_')}"


def role_of(dsn: str) -> str:
    """Return the role that connects with this DSN."""
    return str(conninfo_to_dict(dsn)["user"])


def migrate(dsn: str, package: str, role: str | None = None) -> None:
    """Upgrade the schema in a child, so that what an upgrade loads does not stay in memory.

    While Postgres is away, waits. Raises RuntimeError when the upgrade fails.
    """
    # Nothing runs beside this yet: a fork has what it needs loaded already.
    forking = multiprocessing.get_context("fork")
    while True:
        child = forking.Process(target=_upgrade_or_exit, args=(dsn, package, role))
        child.start()
        child.join()
        if child.exitcode == 0:
            return
        if child.exitcode != _AWAY:
            raise RuntimeError(f"the migrations of {package} failed")
        time.sleep(RETRY_S)


def wait_for_schema(dsn: str, package: str) -> None:
    """Return when the schema is at this program's version, or a later one."""
    wanted = newest_revision(package)
    while True:
        try:
            found = _revision(dsn)
        except psycopg.OperationalError as error:
            log.warning("waiting for the database", error=str(error).partition("\n")[0])
        else:
            if found >= wanted:
                return
            log.warning("waiting for the migrations of the schema", found=found, wanted=wanted)
        time.sleep(RETRY_S)


def newest_revision(package: str) -> str:
    """Return the newest revision of a package's migrations: its files' names begin with theirs."""
    files = resources.files(package).joinpath("migrations", "versions").iterdir()
    return max(file.name.partition("_")[0] for file in files if file.name.endswith(".py"))


def _revision(dsn: str) -> str:
    with psycopg.connect(dsn, **connect_arguments()) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            return ""  # nothing was migrated, or not to its end
    return str(row[0]) if row else ""


def upgrade(dsn: str, package: str, role: str | None = None) -> None:
    """Upgrade the schema; one process at a time, waiting for its turn.

    `package` holds the migrations in its folder `migrations`. `role` is the service's own: it gets
    what a service needs of tables that it does not own. Where it is None, or the one that upgrades,
    nobody is given anything. Raises OperationalError while Postgres is away.
    """
    from alembic import command
    from alembic.config import Config

    engine = create_engine(
        sqlalchemy_url(dsn), connect_args=connect_arguments(), hide_parameters=True
    )
    strip_values_of(engine)
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
            if role is not None and role != connection.scalar(text("SELECT current_user")):
                _grant(connection, role)
            connection.commit()
    finally:
        engine.dispose()


def _grant(connection: Connection, role: str) -> None:
    """Let the service's role read and write its tables, but never change a fact."""
    names = connection.dialect.identifier_preparer
    schema = names.quote(str(connection.scalar(text("SELECT current_schema()"))))
    to, tables = names.quote(role), inspect(connection).get_table_names()
    statements = [
        f"GRANT USAGE ON SCHEMA {schema} TO {to}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {to}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {to}",
        f"REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {to}",
    ]
    if APPEND_ONLY in tables:
        statements.append(f"REVOKE UPDATE, DELETE ON {APPEND_ONLY} FROM {to}")
    for statement in statements:
        connection.execute(text(statement))


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


def _upgrade_or_exit(dsn: str, package: str, role: str | None) -> None:
    try:
        upgrade(dsn, package, role)
    except OperationalError as error:
        log.warning("waiting for the database", error=str(error).partition("\n")[0])
        sys.exit(_AWAY)
