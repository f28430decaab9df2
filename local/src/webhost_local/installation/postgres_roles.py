"""The stack's database: for each service a schema, a role that owns it, and the service's own role.

The owner migrates; the service's role owns nothing, and connects to this database alone.
Idempotent, and applied at every start: missing roles are created, passwords, owners and privileges
are corrected.

It is done by a superuser, or by a role with CREATEDB and CREATEROLE, as managed servers give: what
such a server keeps to itself (its own databases, functions) is left as it is, with a warning.

`python -m webhost_local.installation.postgres_roles [SERVICE…]` prints the same without passwords.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator

import psycopg
from psycopg import sql

from webhost_local.installation.services import SERVICES

DATABASE = "webhost"


def role(service: str) -> str:
    """The Postgres role of a service."""
    return f"webhost_{schema(service)}"


def owner(service: str) -> str:
    """The Postgres role that owns a service's schema, and migrates it."""
    return f"{role(service)}_owner"


def schema(service: str) -> str:
    """The Postgres schema of a service."""
    return service.replace("-", "_")


def provision(
    superuser_dsn: str, database_dsn: str, passwords: dict[str, str], owners: dict[str, str]
) -> None:
    """Create database, roles and schemas; `passwords` and those of `owners` by service name.

    `superuser_dsn` is of a database that exists, `database_dsn` of the one to be made.
    """
    with psycopg.connect(superuser_dsn, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            connection.execute(_q("CREATE DATABASE {}", DATABASE))
    with psycopg.connect(database_dsn) as connection:
        for statement in statements(passwords):
            connection.execute(statement)
        for service, password in passwords.items():
            _set_password(connection, owner(service), owners[service])
            _set_password(connection, role(service), password)


def statements(services: Iterable[str]) -> Iterator[sql.Composed]:
    """Yield what is run in the database, after which the roles lack passwords alone."""
    yield _q("REVOKE ALL ON DATABASE {} FROM PUBLIC", DATABASE)
    yield _q("REVOKE ALL ON SCHEMA {} FROM PUBLIC", "public")
    for other in ("postgres", "template1"):
        yield _where_it_may(_q("REVOKE ALL ON DATABASE {} FROM PUBLIC", other))
    # Otherwise everybody may make large objects, in whichever database they are in.
    for function in ("lo_create(oid)", "lo_creat(integer)", "lo_from_bytea(oid, bytea)"):
        revoke = sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC")
        yield _where_it_may(revoke.format(sql.SQL(function)))
    for service in services:
        name = schema(service)
        for one in (owner(service), role(service)):
            yield _create_role(one)
            yield _q("GRANT CONNECT ON DATABASE {} TO {}", DATABASE, one)
            yield _q("ALTER ROLE {} IN DATABASE {} SET search_path = {}", one, DATABASE, name)
        yield _q("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}", name, owner(service))
        yield _q("REASSIGN OWNED BY {} TO {}", role(service), owner(service))
        yield _q("GRANT USAGE ON SCHEMA {} TO {}", name, role(service))


def _create_role(name: str) -> sql.Composed:
    # Who is no superuser gives what it owns to its members only, and makes itself one.
    return sql.SQL(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN"
        " CREATE ROLE {role} LOGIN; END IF;"
        " IF NOT pg_has_role({name}, 'USAGE') THEN GRANT {role} TO CURRENT_USER; END IF; END $$"
    ).format(name=sql.Literal(name), role=sql.Identifier(name))


def _where_it_may(statement: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "DO $$ BEGIN {}; EXCEPTION WHEN insufficient_privilege OR invalid_catalog_name"
        " THEN RAISE WARNING '%', SQLERRM; END $$"
    ).format(statement)


def _set_password(connection: psycopg.Connection, name: str, password: str) -> None:
    # The verifier is computed here, so that no statement carries the password.
    verifier = connection.pgconn.encrypt_password(
        password.encode(), name.encode(), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(name), sql.Literal(verifier.decode())
        )
    )


def _q(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))  # pyright: ignore[reportArgumentType]


def script(services: Iterable[str] = SERVICES) -> str:
    """Return the statements as SQL."""
    return "".join(f"{statement.as_string(None)};\n" for statement in statements(services))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m webhost_local.installation.postgres_roles",
        description="Print the SQL of roles and schemas.",
    )
    parser.add_argument(
        "service", nargs="*", help=f"one of {', '.join(SERVICES)}; all, if none is named"
    )
    chosen = parser.parse_args().service
    if unknown := {*chosen} - {*SERVICES}:
        parser.error(f"there is no service {min(unknown)}")
    sys.stdout.write(script(chosen or SERVICES))
