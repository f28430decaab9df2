"""What a service's role may do in the stack's database: the matrix of docs/privileges.md, tried."""

from collections.abc import Iterator
from time import monotonic

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs
from webhost_kit.database import engine
from webhost_kit.database.privileges import VERBS
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Unavailable
from webhost_local.installation.postgres_roles import DATABASE, owner, role, schema
from webhost_local.installation.services import SERVICES

from tests.support.infra import Postgres
from tests.support.roles import StackDatabase

TABLES = """
    SELECT relnamespace::regnamespace::text, relname FROM pg_class
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace::regnamespace::text = ANY(%s)
"""
COLUMNS = """
    SELECT array_agg(attname::text) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""
GRANTED = """
    SELECT CASE WHEN %(verb)s = ANY('{SELECT,INSERT,UPDATE,REFERENCES}')
        THEN has_any_column_privilege(%(role)s, %(table)s, %(verb)s)
        ELSE has_table_privilege(%(role)s, %(table)s, %(verb)s) END
"""
SHORT = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
MATRIX = {
    "api": {
        "S": "alembic_version",
        "SI": "events",
        "SIU": "accounts agent_events agents api_keys checkpoints deployments users",
        "SID": "held_facts idempotency idempotency_claims outbox parked_events uploads",
        "SIUD": "artifacts history",
    },
    "deployer": {
        "S": "alembic_version",
        "SI": "events",
        "SIU": "agent_secrets agent_teardowns checkpoints deployments installation_keys",
        "SID": "held_facts outbox parked_events secret_operations",
        "SIUD": "front_updates rate_limits secret_updates secrets",
    },
    "gateway": {
        "S": "alembic_version",
        "SIU": "checkpoints",
        "SID": "parked_events",
        "SIUD": "idempotency invocations key_quotas leases quotas routed_accounts routed_agents"
        " routed_deployments routed_keys usage_outbox",
    },
    "telemetry-ingest": {
        "S": "alembic_version",
        "SIU": "checkpoints",
        "SID": "parked_events",
        "SIUD": "accounts deployments",
    },
    "billing": {
        "S": "alembic_version",
        "SI": "events sealed_usage",
        "SU": "generations",
        "SIU": "accounts checkpoints feed_heads partition_seals periods subscriptions",
        "SID": "held_facts late_reports outbox parked_events rebuilds usage_feed"
        " webhook_deliveries",
        "SIUD": "billing_usage invocations rebuild_checkpoints totals_due usage_events"
        " usage_series usage_unsettled",
    },
}
"""Written here once more on purpose: what grants is also what makes docs/privileges.md."""
TRIES = {
    "SELECT": "SELECT {columns} FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "UPDATE": "UPDATE {table} SET {defaults} WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
    "TRIGGER": "CREATE TRIGGER mine AFTER INSERT ON {table}"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}
REFUSED = (
    *(
        f"CREATE {kind}TABLE {where}mine (x int)"
        for kind, where in (
            ("", ""),
            ("TEMPORARY ", ""),
            ("", "public."),
            *(("", f"{schema(s)}.") for s in SERVICES),
        )
    ),
    *("CREATE SCHEMA mine", "CREATE DATABASE mine", "CREATE ROLE mine", "DROP EXTENSION plpgsql"),
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    *(f"SET ROLE {name}" for name in ("postgres", *map(owner, SERVICES))),
    "SET session_replication_role = replica",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_reload_conf()",
    "SELECT * FROM pg_authid",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' LIMIT 1",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    *("SELECT lo_create(0)", "SELECT lo_creat(-1)", "SELECT lo_from_bytea(0, 'x')"),
    *("SELECT lo_import('/etc/passwd')", "SELECT lo_export(1, '/tmp/mine')"),
    "DROP SCHEMA {own}",
    "ALTER TABLE {own}.checkpoints ADD COLUMN mine int",
    "ALTER TABLE {own}.checkpoints DISABLE ROW LEVEL SECURITY",
    "DROP TABLE {own}.checkpoints",
    "SELECT setval((SELECT oid FROM pg_class WHERE relkind = 'S' LIMIT 1)::regclass, 1)",
)
ATTRIBUTES = """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
        OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid OR roleid = r.oid)
    FROM pg_roles r WHERE rolname = %s
"""


@pytest.fixture(scope="module")
def migrated(postgres_server: Postgres) -> Iterator[StackDatabase]:
    database = StackDatabase(postgres_server)
    database.migrate()
    yield database
    postgres_server.drop_database(postgres_server.dsn_of(DATABASE))


def tables(database: StackDatabase) -> dict[str, list[str]]:
    """The columns of each table of all services, by the table's whole name."""
    with psycopg.connect(database.dsn) as connection:
        found = connection.execute(TABLES, [[schema(service) for service in SERVICES]]).fetchall()
        names = [f"{where}.{name}" for where, name in found]
        return {name: connection.execute(COLUMNS, [name]).fetchall()[0][0] for name in names}


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("service", SERVICES)
def test_a_role_may_do_with_each_table_what_is_declared_and_nothing_else(
    service: str, migrated: StackDatabase
) -> None:
    declared = {
        f"{schema(service)}.{table}": {SHORT[verb] for verb in verbs}
        for verbs, those in MATRIX[service].items()
        for table in those.split()
    }
    every = tables(migrated)
    assert declared.keys() <= every.keys(), "a table that is not there"
    assert {t for t in every if t.startswith(f"{schema(service)}.")} == declared.keys(), "forgotten"
    with psycopg.connect(migrated.dsn) as asking, migrated.connect(service) as connection:
        for table, columns in every.items():
            expected = declared.get(table, set[str]())
            # of the table, or of any column of it
            granted = {
                verb
                for verb in VERBS
                if asking.execute(
                    GRANTED, {"role": role(service), "table": table, "verb": verb}
                ).fetchone()
                == (True,)
            }
            assert granted == expected, table
            # and in fact, with all columns
            defaults = ", ".join(f"{column} = DEFAULT" for column in columns)
            done = {
                verb
                for verb, tried in TRIES.items()
                if allowed(
                    connection,
                    tried.format(table=table, columns=", ".join(columns), defaults=defaults),
                )
            }
            assert done == expected & TRIES.keys(), table


def allowed(connection: psycopg.Connection, statement: str) -> bool:
    """Whether the role may do it, whatever else is wrong with it; nothing is changed."""
    with connection.transaction(force_rollback=True):
        try:
            connection.execute("SET LOCAL webhost.user_id = '*'")
            connection.execute(statement.encode())
        except InsufficientPrivilege as error:
            # The policies refuse a row without a user, which is no row of anybody's.
            return "row-level security" in str(error)
        except psycopg.errors.IntegrityError:
            return True
    return True


def is_refused(connection: psycopg.Connection, statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except InsufficientPrivilege:
        return True
    return False


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("service", SERVICES)
def test_a_role_can_do_nothing_else_in_the_database_or_the_server(
    service: str, migrated: StackDatabase
) -> None:
    with migrated.connect(service) as connection:
        for statement in REFUSED:
            tried = statement.replace("{own}", schema(service))
            assert is_refused(connection, tried), tried
    with psycopg.connect(migrated.dsn) as asking:
        assert asking.execute(ATTRIBUTES, [role(service)]).fetchone() == (False,)
    for other in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            migrated.connect(service, other)


def refusals() -> float:
    return REGISTRY.get_sample_value("webhost_database_refusals_total") or 0


@pytest.mark.accept("6.D2")
async def test_a_refusal_is_logged_and_counted_within_a_second(migrated: StackDatabase) -> None:
    database = engine.Database(migrated.role_dsn("billing"))
    statements = Statements(migrated.role_dsn("gateway"), "test")
    before, began = refusals(), monotonic()
    with capture_logs() as logged:
        async with database.transaction() as connection:
            with pytest.raises(ProgrammingError):
                await connection.execute(
                    text("UPDATE events SET type = :value"), {"value": "a value"}
                )
            await connection.rollback()
        query = "UPDATE alembic_version SET version_num = %(value)s"
        with pytest.raises(Unavailable):
            await statements.execute((query, {"value": "a value"}))
        assert monotonic() - began < 1
    lines = [line for line in logged if line["event"] == "refused by the database"]
    said = "InsufficientPrivilege 42501: permission denied for table"
    assert [line["error"] for line in lines] == [f"{said} events", f"{said} alembic_version"]
    assert "a value" not in str(logged)
    assert refusals() == before + 2
    await statements.close()
    await database.close()
