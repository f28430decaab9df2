"""Brings a service's schema to its program's version, before the service starts.

The role that upgrades owns the schema and all that is in it. The service's own role owns nothing:
it may do with them what its package's `privileges` say.
"""

import multiprocessing
import sys
import time
from collections.abc import Mapping
from importlib import resources

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, MetaData, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from webhost_kit.database.engine import connect_arguments, sqlalchemy_url
from webhost_kit.database.privileges import Verbs, privileges_of
from webhost_kit.database.revisions import newest_revision
from webhost_kit.database.row_security import ALL_USERS
from webhost_kit.database.values import strip_values_of

log = structlog.get_logger(__name__)

RETRY_S = 1.0
_OWNER = "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')"
_OWNED_REVISION = (
    "SELECT version_num, obj_description('alembic_version'::regclass, 'pg_class')"
    " FROM alembic_version"
)
_LOCK = 0x7765_6268
_LATER = 3
"""What the child ends with where it left the schema of a later version as it is."""
_AWAY = 75
"""What the child ends with when it may be tried again (EX_TEMPFAIL)."""


def role_of(dsn: str) -> str:
    """Return the role that connects with this DSN. Raises ValueError where it names none."""
    user = conninfo_to_dict(dsn).get("user")
    if not user:
        raise ValueError("the DSN names no user")
    return str(user)


def migrate(dsn: str, package: str, role: str | None = None) -> bool:
    """Upgrade the schema in a child, so that what an upgrade loads does not stay in memory. Say
    whether it was; False where it is of a later version, and was left as it is.

    While Postgres is away, waits. Raises RuntimeError when the upgrade fails, or Postgres refuses
    the connection.
    """
    # Nothing runs beside this yet: a fork has what it needs loaded already.
    forking = multiprocessing.get_context("fork")
    while True:
        child = forking.Process(target=_upgrade_or_exit, args=(dsn, package, role))
        child.start()
        child.join()
        if child.exitcode in (0, _LATER):
            return child.exitcode == 0
        if child.exitcode != _AWAY:
            raise RuntimeError(f"the migrations of {package} failed")
        time.sleep(RETRY_S)


def wait_for_schema(dsn: str, package: str) -> None:
    """Return when the schema is at this program's version, or a later one.

    Raises RuntimeError where it is another service's.
    """
    wanted = newest_revision(package)
    while True:
        try:
            found = _revision(dsn, package)
        except psycopg.OperationalError as error:
            log.warning("waiting for the database", error=str(error).partition("\n")[0])
        else:
            if found >= wanted:
                return
            log.warning("waiting for the migrations of the schema", found=found, wanted=wanted)
        time.sleep(RETRY_S)


def _revision(dsn: str, package: str) -> str:
    with psycopg.connect(dsn, **connect_arguments()) as connection:
        try:
            row = connection.execute(_OWNED_REVISION).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            return ""  # nothing was migrated, or not to its end
    if row is None:
        return ""
    revision, owner = row
    _require_owner(owner, package)
    return str(revision)


def _require_owner(owner: str | None, package: str) -> None:
    """Revisions of all services have the same names: the table's comment says whose they are."""
    if owner not in (None, package):
        raise RuntimeError(f"the schema is that of {owner}, not of {package}: check search_path")


def _require_own_schema(schema: str | None) -> None:
    if schema in (None, "public"):
        raise RuntimeError(
            f"the schema would be {schema or 'none'}: set the search_path of the role that migrates"
            " to the service's own schema (ALTER ROLE ... SET search_path)"
        )


def upgrade(dsn: str, package: str, role: str | None = None, revision: str = "head") -> bool:
    """Upgrade the schema, to its newest revision; one process at a time, waiting for its turn.
    Say whether that was done.

    `package` holds the migrations in its folder `migrations`. `role` is the service's own: it gets
    what a service needs of tables that it does not own. Where it is None, or the one that upgrades,
    nobody is given anything. A later version's schema is left as it is: the version before works on
    it. Raises OperationalError while Postgres is away, RuntimeError where the
    schema is another service's, or, with a `role`, no service's own.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    # What a migration changes are all users' rows, where policies keep them apart.
    arguments = connect_arguments(f"-c webhost.user_id={ALL_USERS}")
    engine = create_engine(sqlalchemy_url(dsn), connect_args=arguments, hide_parameters=True)
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
            if role is not None:
                _require_own_schema(connection.scalar(text("SELECT current_schema()")))
            config = Config()
            config.set_main_option("script_location", str(folder))
            config.attributes["connection"] = connection
            _require_owner(connection.scalar(text(_OWNER)), package)
            found = MigrationContext.configure(connection).get_current_revision()
            if found is not None and found > newest_revision(package):
                # Neither its tables nor what was granted on them are known here.
                log.warning("the schema is of a later version", found=found)
                return False
            command.upgrade(config, revision)
            connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{package}'"))
            if role is not None and role != connection.scalar(text("SELECT current_user")):
                _grant(connection, role, privileges_of(package))
            connection.commit()
            return True
    finally:
        engine.dispose()


def _grant(connection: Connection, role: str, privileges: Mapping[str, Verbs]) -> None:
    """Let the service's role do with its tables what it needs to, and nothing else."""
    names = connection.dialect.identifier_preparer
    schema = names.quote(str(connection.scalar(text("SELECT current_schema()"))))
    to, tables = names.quote(role), inspect(connection).get_table_names()
    statements = [
        f"GRANT USAGE ON SCHEMA {schema} TO {to}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {to}",
        *(
            f"GRANT {', '.join(sorted(verbs))} ON {names.quote(table)} TO {to}"
            for table, verbs in privileges.items()
            if table in tables
        ),
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {to}",
    ]
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
        if not upgrade(dsn, package, role):
            sys.exit(_LATER)
    except OperationalError as error:
        said = str(error).partition("\n")[0]
        if _is_refusal(said):
            log.error("refused by the database", error=said)
            sys.exit(1)
        log.warning("waiting for the database", error=said)
        sys.exit(_AWAY)
    except RuntimeError as error:
        log.error("not migrated", error=str(error))
        sys.exit(1)


def _is_refusal(said: str) -> bool:
    """Say whether waiting would change nothing: a wrong password, no such role or database."""
    passing = ("the database system is", "too many", "remaining connection slots")
    return "FATAL:" in said and not any(words in said for words in passing)
