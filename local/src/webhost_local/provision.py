"""The stack's database: for each service a schema, a role that owns it, and the service's own role.

The owner migrates; the service's role owns nothing, and connects to this database alone.
Idempotent, and applied at every start: missing roles are created, passwords, owners and privileges
are corrected.
"""

import psycopg
from psycopg import sql

from webhost_local.identities import owner, role, schema

DATABASE = "webhost"


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
        for other in ("postgres", "template1"):
            connection.execute(_q("REVOKE ALL ON DATABASE {} FROM PUBLIC", other))
    with psycopg.connect(database_dsn) as connection:
        connection.execute(_q("REVOKE ALL ON DATABASE {} FROM PUBLIC", DATABASE))
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        # Otherwise everybody may make large objects, in whichever database they are in.
        for function in ("lo_create(oid)", "lo_creat(integer)", "lo_from_bytea(oid, bytea)"):
            connection.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC".encode())
        for service, password in passwords.items():
            _provision_role(connection, owner(service), schema(service), owners[service])
            _provision_role(connection, role(service), schema(service), password)
            _provision_schema(connection, schema(service), owner(service), role(service))


def _provision_role(
    connection: psycopg.Connection, name: str, search_path: str, password: str
) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
    if known.fetchone() is None:
        connection.execute(_q("CREATE ROLE {}", name))
    # The verifier is computed here, so that no statement carries the password.
    verifier = connection.pgconn.encrypt_password(
        password.encode(), name.encode(), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(name), sql.Literal(verifier.decode())
        )
    )
    connection.execute(_q("GRANT CONNECT ON DATABASE {} TO {}", DATABASE, name))
    connection.execute(
        _q("ALTER ROLE {} IN DATABASE {} SET search_path = {}", name, DATABASE, search_path)
    )


def _provision_schema(
    connection: psycopg.Connection, name: str, owned_by: str, used_by: str
) -> None:
    connection.execute(_q("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}", name, owned_by))
    connection.execute(_q("REASSIGN OWNED BY {} TO {}", used_by, owned_by))
    connection.execute(_q("GRANT USAGE ON SCHEMA {} TO {}", name, used_by))


def _q(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))  # pyright: ignore[reportArgumentType]
