"""The api's second wall: policies keep users' rows apart, whatever a query asks for."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.errors import InsufficientPrivilege, UndefinedObject
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import JSONB
from webhost_api import queries, timeline
from webhost_api.keys import store as keys
from webhost_api.privileges import BY_USER
from webhost_api.queries import Page
from webhost_api.tables import agents, metadata
from webhost_api.timeline import Window
from webhost_kit.database import row_security
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.row_security import ALL_USERS, acting_for, answering, everybody
from webhost_local.installation.postgres_roles import role, schema

from tests.support.roles import StackDatabase

MINE, THEIRS = "usr_mine", "usr_theirs"
OF_AGENTS = "agent_events"
"""Has no user, but rows of agents, which have."""
TABLES = [table.name for table in metadata.sorted_tables if "user_id" in table.c] + [OF_AGENTS]
UNPROTECTED = """
    SELECT relname FROM pg_class
    WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')
        AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'user_id')
        AND NOT (relrowsecurity AND relforcerowsecurity)
"""


def row(table: sa.Table, user: str) -> dict[str, Any]:
    """A row of this user's with something in each column."""
    return {column.name: value(column, user) for column in table.c}


def value(column: sa.Column[Any], user: str) -> Any:
    if column.name == "user_id":
        return user
    match column.type:
        case JSONB():
            return Jsonb({})
        case sa.Text():
            return f"{column.name}_{user}"
        case sa.LargeBinary():
            return b""
        case sa.Boolean():
            return False
        case _:
            return 1


def insert(connection: psycopg.Connection, table: sa.Table, values: dict[str, Any]) -> None:
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO {table.name} ({names}) VALUES ({places})".encode(), values)


def acting(connection: psycopg.Connection, user: str) -> None:
    connection.execute("SELECT set_config('webhost.user_id', %s, false)", [user])


@pytest.fixture
def api(database: StackDatabase) -> Iterator[psycopg.Connection]:
    """A connection of the api's own role, to tables with one row of each of two users."""
    database.migrate("api")
    with database.connect("api") as connection:
        acting(connection, ALL_USERS)
        for table in metadata.sorted_tables:
            if table.name in TABLES:
                for user in MINE, THEIRS:
                    insert(connection, table, row(table, user))
        yield connection


def users_of(connection: psycopg.Connection, table: str) -> set[str]:
    """Whose rows are seen."""
    column = "agent_id" if table == OF_AGENTS else "user_id"
    found = connection.execute(f"SELECT {column} FROM {table}".encode()).fetchall()
    return {str(value).removeprefix("agent_id_") for (value,) in found}


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("name", TABLES)
def test_a_users_transactions_reach_that_users_rows_alone(
    name: str, api: psycopg.Connection
) -> None:
    table = metadata.tables[name]
    assert users_of(api, name) == {MINE, THEIRS}
    # given a transaction that is about one user, when it asks for all rows
    acting(api, MINE)
    assert users_of(api, name) == {MINE}
    # or changes all of them
    column, other = ("agent_id", f"agent_id_{THEIRS}") if name == OF_AGENTS else ("user_id", THEIRS)
    for statement in (
        f"UPDATE {name} SET {column} = '{other}'",
        f"DELETE FROM {name} WHERE {column} = '{other}'",
        f"SELECT FROM {name} WHERE {column} = '{other}' FOR UPDATE",
    ):
        try:
            assert api.execute(statement.encode()).rowcount == 0
        except InsufficientPrivilege:
            continue
    # or adds one of the other's
    new = row(table, THEIRS) | {
        column.name: f"{column.name}_new"
        for column in table.primary_key
        if isinstance(column.type, sa.Text) and column.name not in ("user_id", "agent_id")
    }
    with pytest.raises(InsufficientPrivilege):
        insert(api, table, new)
    # then nothing of the other's is there for it, and all is as it was
    acting(api, ALL_USERS)
    assert users_of(api, name) == {MINE, THEIRS}


@pytest.mark.accept("6.D2")
@pytest.mark.parametrize("name", TABLES)
def test_who_names_nobody_finds_nothing(
    name: str, api: psycopg.Connection, database: StackDatabase
) -> None:
    acting(api, "")
    assert users_of(api, name) == set()
    # and who never heard of it, as a program of before, is not led to believe that nothing is there
    with (
        psycopg.connect(database.role_dsn("api")) as old,
        pytest.raises(UndefinedObject, match=r"webhost\.user_id"),
    ):
        users_of(old, name)


@pytest.mark.accept("6.D2")
def test_the_owner_sees_no_more_than_the_service(
    api: psycopg.Connection, database: StackDatabase
) -> None:
    with psycopg.connect(database.owner_dsn("api"), autocommit=True) as owner:
        acting(owner, MINE)
        assert {name: users_of(owner, name) for name in TABLES} == {name: {MINE} for name in TABLES}


@pytest.mark.accept("6.D2")
def test_a_table_with_users_rows_has_its_policy(database: StackDatabase) -> None:
    database.migrate("api")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        assert connection.execute(UNPROTECTED, [schema("api")]).fetchall() == []
        forced = "SELECT relname FROM pg_class WHERE relforcerowsecurity"
        assert {name for (name,) in connection.execute(forced)} == BY_USER
        # given one that somebody adds later, then it would be seen here
        for statement in (
            "CREATE TABLE {}.later (user_id text)",
            "ALTER TABLE {}.later ENABLE ROW LEVEL SECURITY",  # not for its owner
        ):
            connection.execute(statement.format(schema("api")).encode())
            assert connection.execute(UNPROTECTED, [schema("api")]).fetchall() == [("later",)]


def test_the_planner_takes_no_policy_for_a_narrow_condition(
    api: psycopg.Connection, database: StackDatabase
) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO api.users SELECT 'usr_' || n, '', '', NULL, NULL, 1"
            " FROM generate_series(1, 1000) n"
        )
        connection.execute("ANALYZE api.users")
    [(plan,)] = api.execute("EXPLAIN (FORMAT JSON) SELECT FROM users").fetchall()
    assert plan[0]["Plan"]["Plan Rows"] > 900


@pytest.mark.accept("6.D2")
def test_a_database_of_before_is_upgraded_with_its_rows(
    database: StackDatabase,
) -> None:
    # given the tables of the first version, with rows
    database.migrate("api", revision="0001")
    users = metadata.tables["users"]
    with database.connect("api") as connection:
        for user in MINE, THEIRS:
            insert(connection, users, row(users, user))
    # when it is upgraded, twice
    for _ in range(2):
        upgrade(database.owner_dsn("api"), "webhost_api", role("api"))
    # then everybody's rows are there, for whom they are about
    with database.connect("api") as connection:
        for user, seen in (MINE, {MINE}), (ALL_USERS, {MINE, THEIRS}):
            acting(connection, user)
            assert users_of(connection, "users") == seen


@pytest.fixture
async def background(api: psycopg.Connection, database: StackDatabase) -> AsyncIterator[Database]:
    it = Database(database.role_dsn("api"), pool_size=1, acts_for=everybody)
    yield it
    await it.close()


@pytest.fixture
def requests(background: Database) -> Transactions:
    """The same connection, as requests use it."""
    return Transactions(acting_for(background.engine, row_security.caller))


@pytest.mark.accept("6.D2")
@pytest.mark.accept("7.isolation")
async def test_a_query_that_forgets_whose_rows_it_reads_finds_the_callers(
    background: Database, requests: Transactions
) -> None:
    async def seen(transactions: Transactions) -> set[str]:
        async with transactions.transaction() as connection:
            return set(await connection.scalars(sa.select(agents.c.user_id)))

    # on one connection, in turn
    assert await seen(requests) == set()
    for user in MINE, THEIRS:
        with answering(user):
            assert await seen(requests) == {user}
            assert await seen(background) == {MINE, THEIRS}
            # and the connection keeps nobody's name between transactions
            async with background.engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                named = await driver.execute("SELECT current_setting('webhost.user_id')")
                assert await named.fetchone() == ("",)
        assert await seen(requests) == set()


@pytest.mark.accept("6.D2")
async def test_what_expects_that_the_owner_was_checked_gives_nothing_of_anothers(
    background: Database, requests: Transactions
) -> None:
    page, window = Page.requested(25, None), Window.requested(25, None)
    agent, deployment, key = (f"{kind}_id_{THEIRS}" for kind in ("agent", "deployment", "key"))

    async def found(transactions: Transactions) -> list[bool]:
        async with transactions.transaction() as connection:
            states = sa.select(metadata.tables["deployments"].c.agent_id)
            of_agent = states.where(metadata.tables["deployments"].c.agent_id == agent)
            log, _ = await timeline.deployment_log(connection, deployment, window, since_ms=0)
            last = await timeline.newest(connection, agent)
            return [
                (await connection.scalar(of_agent)) is not None,
                bool(log),
                last.number > 0,
            ]

    assert await found(background) == [True, True, True]
    with answering(MINE):
        assert await found(requests) == [False, False, False]
        async with requests.transaction() as connection:
            assert await queries.list_deployments(connection, agent, page, status=None) == (
                [],
                None,
            )
            assert await keys.load(connection, key) is None


@pytest.mark.accept("6.D2")
async def test_another_users_id_in_the_name_of_the_setting_is_only_a_name(
    requests: Transactions,
) -> None:
    with answering("'; SET LOCAL webhost.user_id = '*"):
        async with requests.snapshot() as connection:
            assert (await connection.execute(sa.select(agents.c.user_id))).all() == []
            named = await connection.scalar(sa.text("SELECT current_setting('webhost.user_id')"))
            assert named == row_security.caller()
