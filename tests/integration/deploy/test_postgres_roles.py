"""The SQL that CloudNativePG runs once, or an operator by hand: roles, schemas, who may do what."""

import io
import json
from collections.abc import Generator

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, OperationalError
from webhost_kit.database.migrations import upgrade, wait_for_schema
from webhost_kit.database.revisions import package_of
from webhost_local.installation.postgres_roles import DATABASE, owner, role
from webhost_local.installation.services import SERVICES

from deploy import roles
from deploy.rendering import of_kind, render
from deploy.secrets import Places, secrets, values_of
from tests.support.infra import Postgres, running_postgres

PASSWORD = "for-tests"


@pytest.fixture
def postgres() -> Generator[Postgres]:
    with running_postgres() as server:
        yield server


def dsn(postgres: Postgres, name: str, database: str = DATABASE) -> str:
    address = postgres.dsn_of(database).rpartition("@")[2]
    return f"postgresql://{name}:{PASSWORD}@{address}"


def test_what_the_cluster_runs_makes_a_service_start(postgres: Postgres) -> None:
    objects = render("production")
    [cluster] = of_kind(objects, "Cluster")
    bootstrap = cluster["spec"]["bootstrap"]["initdb"]
    [reference] = bootstrap["postInitApplicationSQLRefs"]["configMapRefs"]
    [text] = [
        it["data"][reference["key"]]
        for it in of_kind(objects, "ConfigMap")
        if it["metadata"]["name"] == reference["name"]
    ]
    managed = [it["name"] for it in cluster["spec"]["managed"]["roles"]]
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(postgres.dsn_of(DATABASE), autocommit=True) as connection:
        for statement in (*bootstrap["postInitApplicationSQL"], text, text):
            connection.execute(statement.encode())  # whoever runs the file by hand may repeat it
        for name in (*managed, "streaming_replica"):
            connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(name), sql.Literal(PASSWORD)
                )
            )
        monitors = connection.execute(
            "SELECT has_database_privilege('pg_monitor', 'postgres', 'CONNECT')"
        ).fetchone()
    assert monitors == (True,)

    # given an old primary that comes back: pg_rewind connects so, and then it replicates
    replica = dsn(postgres, "streaming_replica", "postgres")
    psycopg.connect(replica).close()
    psycopg.connect(f"{replica}?replication=true", autocommit=True).close()

    upgrade(dsn(postgres, owner("gateway")), package_of("gateway"), role("gateway"))
    wait_for_schema(dsn(postgres, role("gateway")), package_of("gateway"))
    with (
        psycopg.connect(dsn(postgres, role("gateway"))) as connection,
        pytest.raises(InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE mine ()")
    with pytest.raises(OperationalError, match="permission denied for database"):
        psycopg.connect(dsn(postgres, role("gateway"), "postgres"))


def test_an_admin_who_is_no_superuser_makes_it_elsewhere(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE admin LOGIN CREATEDB CREATEROLE PASSWORD 'for-tests'")
        connection.execute("REVOKE ALL ON DATABASE template1 FROM PUBLIC")
    with psycopg.connect(postgres.dsn_of("template1"), autocommit=True) as connection:
        connection.execute("REVOKE ALL ON FUNCTION lo_create(oid) FROM PUBLIC")
    address = postgres.dsn.rpartition("@")[2].partition("/")[0]
    document = {"items": list(secrets(Places(postgres=address, postgres_parameters="")))}
    monkeypatch.setenv("DATABASE_SUPERUSER_URL", dsn(postgres, "admin", "postgres"))

    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(document)))
        roles.main([])

    made = values_of(document)
    for service in SERVICES:
        owners = made[f"webhost-{service}-migrations"]["MIGRATIONS_DATABASE_URL"]
        upgrade(owners, package_of(service), role(service))
        wait_for_schema(made[f"webhost-{service}"]["DATABASE_URL"], package_of(service))
