"""Who may do what in the stack's database: a service's own role owns nothing."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import AgentCreated, AgentUpdated
from webhost_contracts.events.base import by_name
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import wait_for_schema
from webhost_kit.database.row_security import everybody
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.republish import republish
from webhost_kit.eventsourcing.store import EventMetadata, append
from webhost_local.installation.postgres_roles import owner, role, schema
from webhost_local.installation.services import SERVICES
from webhost_local.migrated import is_migrated

from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background, running
from tests.support.roles import StackDatabase
from tests.support.service import ServiceProcess, environment

WITH_FACTS = ("api", "deployer", "billing")
TYPES = by_name(AgentCreated, AgentUpdated)
WHO = EventMetadata(actor="test")


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_owns_nothing_and_can_make_nothing(service: str, database: StackDatabase) -> None:
    for _ in range(2):  # the second time changes nothing
        database.provision()
        database.migrate()
    with database.connect(service) as connection:
        owned = connection.execute(
            "SELECT count(*) FROM pg_shdepend"
            " WHERE deptype = 'o' AND refobjid = current_user::regrole"
        ).fetchone()
        assert owned == (0,)
        for statement in (
            "CREATE TABLE mine (value int)",
            "CREATE TEMPORARY TABLE mine (value int)",
            "CREATE TABLE public.mine (value int)",
            "CREATE SCHEMA mine",
            "ALTER TABLE checkpoints ADD COLUMN mine int",
            "DROP TABLE checkpoints",
            "TRUNCATE checkpoints",
            "UPDATE alembic_version SET version_num = '0'",
            f"SET ROLE {owner(service)}",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("service", WITH_FACTS)
def test_facts_are_append_only(service: str, database: StackDatabase) -> None:
    database.migrate()
    with database.connect(service) as connection:
        connection.execute(
            "INSERT INTO events VALUES ('agt_1', 1, 'evt_1', 'agent.created.v1', 'usr_1', 1, '')"
        )
        for statement in ("UPDATE events SET version = 2", "DELETE FROM events", "TRUNCATE events"):
            with pytest.raises(InsufficientPrivilege, match="permission denied for table events"):
                connection.execute(statement.encode())
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {schema}.alembic_version SET version_num = '0000'",
        "DELETE FROM {schema}.alembic_version",
        "DROP TABLE {schema}.alembic_version",
        "COMMENT ON TABLE {schema}.alembic_version IS 'webhost_other'",
        "GRANT UPDATE ON {schema}.alembic_version TO {role}",
        "GRANT DELETE ON {schema}.events TO {role}",
        "REVOKE INSERT ON {schema}.checkpoints FROM {role}",
        "REVOKE USAGE ON ALL SEQUENCES IN SCHEMA {schema} FROM {role}",
        "GRANT TRUNCATE ON {schema}.outbox TO {role}",
    ],
)
def test_what_differs_is_migrated_again(change: str, database: StackDatabase) -> None:
    names = {"schema": sql.Identifier(schema("api")), "role": sql.Identifier(role("api"))}
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        assert not is_migrated(connection, SERVICES)
        database.migrate()
        assert is_migrated(connection, SERVICES)
        connection.execute(sql.SQL(change).format(**names))
        assert not is_migrated(connection, SERVICES)
        assert is_migrated(connection, [other for other in SERVICES if other != "api"])


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("service", SERVICES)
def test_a_role_is_alone_with_its_schema(service: str, database: StackDatabase) -> None:
    database.migrate()
    with database.connect(service) as connection:
        for other in set(SERVICES) - {service}:
            with pytest.raises(InsufficientPrivilege, match="permission denied for schema"):
                connection.execute(f"SELECT * FROM {schema(other)}.checkpoints".encode())
    for other in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            database.connect(service, other)


@pytest.mark.accept("6.D2")
def test_what_a_service_owned_before_is_its_owners_now(database: StackDatabase) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for grant in ("ALTER SCHEMA {} OWNER TO {}", "GRANT ALL ON SCHEMA {} TO {}"):
            connection.execute(
                sql.SQL(grant).format(sql.Identifier("gateway"), sql.Identifier(role("gateway")))
            )
    with database.connect("gateway") as connection:
        connection.execute("CREATE TABLE mine (value int)")
    database.provision()
    with database.connect("gateway") as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("DROP TABLE mine")


@pytest.mark.accept("6.D2")
async def test_a_service_waits_for_its_schema_and_says_so(
    database: StackDatabase, nats_account: str, tmp_path: Path
) -> None:
    env = environment(
        database.role_dsn("telemetry-ingest"),
        nats_account,
        TELEMETRY_MASTER_KEYS=f"1:{'A' * 43}",
        LOG_LEVEL="warning",
    )
    del env["MIGRATE_AT_START"]
    migrating = env | {"MIGRATIONS_DATABASE_URL": database.owner_dsn("telemetry-ingest")}
    log = tmp_path / "log"
    async with aiohttp.ClientSession() as client:
        service = ServiceProcess("webhost_telemetry_ingest", env, client, log=log)
        await service.launch()

        async def waits() -> bool:
            return "waiting for the migrations of the schema" in log.read_text()

        await eventually(waits, "the service to say what it waits for")
        ended = await asyncio.to_thread(migrate, migrating)
        assert ended.returncode == 0, ended.stderr
        await service.until_ready()
        await service.kill()


@pytest.mark.accept("6.D2")
async def test_the_services_own_role_cannot_migrate(database: StackDatabase) -> None:
    env = {"DATABASE_URL": database.role_dsn("gateway")}
    ended = await asyncio.to_thread(migrate, env | {"MIGRATIONS_DATABASE_URL": env["DATABASE_URL"]})
    assert ended.returncode == 1
    assert "permission denied for schema gateway" in ended.stderr
    missing = await asyncio.to_thread(migrate, env)
    assert missing.returncode == 78
    assert "missing MIGRATIONS_DATABASE_URL" in missing.stderr


@pytest.mark.accept("6.D2")
async def test_what_was_done_is_what_is_said(database: StackDatabase) -> None:
    env = {
        "DATABASE_URL": database.role_dsn("gateway"),
        "MIGRATIONS_DATABASE_URL": database.owner_dsn("gateway"),
    }
    ended = await asyncio.to_thread(migrate, env)
    assert (ended.returncode, ended.stderr.count("granted_to=")) == (0, 1), ended.stderr
    with psycopg.connect(env["MIGRATIONS_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    ended = await asyncio.to_thread(migrate, env)
    assert ended.returncode == 0, ended.stderr
    assert "nothing was migrated or granted" in ended.stderr
    assert "granted_to=" not in ended.stderr


@pytest.mark.accept("6.D2")
async def test_a_schema_of_another_service_is_refused(database: StackDatabase) -> None:
    database.migrate()
    billings = database.owner_dsn("billing")
    wrong = {"DATABASE_URL": database.role_dsn("gateway"), "MIGRATIONS_DATABASE_URL": billings}
    ended = await asyncio.to_thread(migrate, wrong)
    assert ended.returncode == 1
    assert "the schema is that of webhost_billing, not of webhost_gateway" in ended.stderr
    with pytest.raises(RuntimeError, match="that of webhost_billing"):
        wait_for_schema(billings, "webhost_api")


@pytest.mark.accept("6.D2")
async def test_a_schema_that_is_no_services_own_is_refused(database: StackDatabase) -> None:
    # given a superuser, who may make tables in `public`, which is where its search_path leads
    env = {"DATABASE_URL": database.role_dsn("gateway"), "MIGRATIONS_DATABASE_URL": database.dsn}
    ended = await asyncio.to_thread(migrate, env)
    assert ended.returncode == 1
    assert "the schema would be public: set the search_path of the role" in ended.stderr
    with psycopg.connect(database.dsn) as connection:
        made = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert made == (0,)


@pytest.mark.accept("6.D2")
async def test_a_migration_does_not_wait_for_what_will_not_change(database: StackDatabase) -> None:
    role_dsn = database.role_dsn("gateway")
    wrong = role_dsn.replace("@", "-wrong@", 1)
    env = {"DATABASE_URL": role_dsn, "MIGRATIONS_DATABASE_URL": wrong}
    ended = await asyncio.to_thread(migrate, env)
    assert ended.returncode == 1
    assert "password authentication failed" in ended.stdout + ended.stderr


def migrate(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    service = "telemetry-ingest" if "TELEMETRY_MASTER_KEYS" in env else "gateway"
    return subprocess.run(
        [sys.executable, "-m", "webhost_kit.process.migrate", service],
        env={"PATH": os.environ["PATH"], "WEBHOST_LOCAL_STACK": "true", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def api(database: StackDatabase, nats_account: str) -> AsyncIterator[Harness]:
    """The api's tables, as the api's own role sees them."""
    database.migrate()
    async with running(Harness, database.role_dsn("api"), nats_account) as harness:
        await harness.database.close()
        harness.database = Database(harness.dsn, acts_for=everybody)
        yield harness


@pytest.mark.accept("6.D2")
async def test_own_facts_are_recovered_and_republished_by_a_role_that_owns_nothing(
    api: Harness, database: StackDatabase
) -> None:
    # given facts on the stream that the event table has lost
    async with api.database.transaction() as connection:
        facts = [AgentCreated(name="a"), AgentUpdated(name="b")]
        await append(connection, "agt_1", "usr_1", 0, facts, WHO)
    async with in_background(Relay(api.dsn, api.bus).run()):
        await api.until_scalar("SELECT count(*) FROM outbox", 0, "the facts to be relayed")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM api.events WHERE version = 2")
    recovered: list[int] = []

    async def recover(_: AsyncConnection, fact: Fact) -> None:
        recovered.append(fact.envelope.version)

    # when the service compares, then it takes them back
    part = OwnFacts("api", api.database, api.bus, ["evt.*.agent.*"], TYPES, recover)
    async with in_background(part.run(), api.database.run()):
        await api.until_scalar("SELECT count(*) FROM events", 2, "the lost fact to be recovered")
    assert recovered == [2]

    # and where it is the stream that lost them, it puts them back
    await api.bus.js.purge_stream(subjects.EVENTS)
    for missing in (2, 0):
        steps = republish(api.database, api.bus, ["evt.*.agent.*"], TYPES, dry_run=False)
        progress = [step async for step in steps][-1]
        assert (progress.missing, progress.done) == (missing, True)
    assert (await api.bus.js.stream_info(subjects.EVENTS)).state.messages == 2
    assert await api.scalar("SELECT count(*) FROM held_facts") == 0
