"""Whether the stack's schemas are as their migrations left them, so that none has to run.

Most starts find nothing to migrate, and what migrates imports every service's tables first.
"""

from collections.abc import Iterable

import psycopg
from psycopg import sql
from webhost_kit.database.privileges import VERBS, privileges_of
from webhost_kit.database.revisions import VERSION_TABLE, newest_revision, package_of

from webhost_local.installation.postgres_roles import role, schema

_VERSION = """
    SELECT version_num, obj_description(%(table)s::regclass, 'pg_class')
    FROM {}
"""
_RELATIONS = """
    SELECT relname, ARRAY(
        SELECT privilege FROM unnest(%(verbs)s::text[]) AS privilege
        WHERE has_table_privilege(%(role)s, pg_class.oid, privilege)
    )
    FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'p')
"""
_CLOSED_SEQUENCES = """
    SELECT 1 FROM pg_class
    WHERE relnamespace = %(schema)s::regnamespace
        -- The planner may ask of a table what only a sequence has, unless there is a CASE.
        AND CASE relkind WHEN 'S' THEN NOT (
            has_sequence_privilege(%(role)s, pg_class.oid, 'USAGE')
            AND has_sequence_privilege(%(role)s, pg_class.oid, 'SELECT')
        ) ELSE false END
    LIMIT 1
"""


def is_migrated(connection: psycopg.Connection, services: Iterable[str]) -> bool:
    """Say whether each has its newest revision, and its role what the migration gives it.

    The connection is the superuser's; schemas and roles exist.
    """
    return all(
        _revision(connection, service)
        == (newest_revision(package_of(service)), package_of(service))
        and _is_granted(connection, service)
        for service in services
    )


def _revision(connection: psycopg.Connection, service: str) -> tuple[str, str] | None:
    table = f"{schema(service)}.{VERSION_TABLE}"
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        return None
    statement = sql.SQL(_VERSION).format(sql.Identifier(schema(service), VERSION_TABLE))
    return connection.execute(statement, {"table": table}).fetchone()


def _is_granted(connection: psycopg.Connection, service: str) -> bool:
    names = {"schema": schema(service), "role": role(service), "verbs": list(VERBS)}
    held = dict(connection.execute(_RELATIONS, names).fetchall())
    granted = privileges_of(package_of(service))
    return {
        table: set(verbs) for table, verbs in held.items() if verbs
    } == granted and not connection.execute(_CLOSED_SEQUENCES, names).fetchall()
