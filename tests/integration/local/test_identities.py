"""Who may do what in the stack's database, and the identities that they do it with."""

from pathlib import Path

import psycopg
import pytest
from webhost_local.data_dir import DataDir
from webhost_local.identities import Identities, load_or_make, role, schema
from webhost_local.nats_accounts import SERVICES
from webhost_local.provision import provision

from tests.support.infra import Postgres


@pytest.fixture(scope="module")
def identities() -> Identities:
    return Identities()


def test_a_role_is_alone_with_its_schema(postgres_server: Postgres, identities: Identities) -> None:
    database = postgres_server.dsn_of("webhost")
    passwords = identities.postgres_roles
    for _ in range(2):  # the second time changes nothing
        provision(postgres_server.dsn, database, passwords)

    def connect(service: str) -> psycopg.Connection:
        login = f"{role(service)}:{passwords[service]}"
        address = database.rpartition("@")[2]
        return psycopg.connect(f"postgresql://{login}@{address}", autocommit=True)

    for service in SERVICES:
        with connect(service) as connection:
            connection.execute("CREATE TABLE mine (value int)")
            found = connection.execute(
                "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'mine' "
                "AND schemaname = %s",
                [schema(service)],
            ).fetchone()
            assert found == (schema(service), role(service))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE TABLE public.not_mine ()")
    with connect("gateway") as connection:
        for other in set(SERVICES) - {"gateway"}:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {schema(other)}.mine")  # pyright: ignore


def test_identities_stay_and_what_is_missing_is_added(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    first = load_or_make(data_dir)
    assert load_or_make(data_dir) == first
    assert data_dir.secrets.stat().st_mode & 0o777 == 0o600
    text = data_dir.secrets.read_text()
    data_dir.secrets.write_text(text.replace('"platformSeed"', '"somethingElse"'))
    again = load_or_make(data_dir)
    assert again.invoke_seed == first.invoke_seed
    assert again.platform_seed != first.platform_seed
    assert load_or_make(data_dir) == again
