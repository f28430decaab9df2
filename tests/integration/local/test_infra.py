"""The servers that all other tests rely on: isolated per test, and alive again after a kill."""

import select
from contextlib import closing

import nats
import psycopg
import pytest
from nats.js.errors import NotFoundError

from tests.support.infra import Nats, Postgres


async def test_an_account_starts_empty(nats_server: Nats) -> None:
    first = await nats.connect(nats_server.new_account())
    await first.jetstream().add_stream(name="S", subjects=["s.>"])
    second = await nats.connect(nats_server.new_account())
    with pytest.raises(NotFoundError):
        await second.jetstream().stream_info("S")
    await first.close()
    await second.close()


async def test_nats_keeps_what_it_acknowledged_across_a_kill(
    nats_server: Nats, nats_account: str
) -> None:
    client = await nats.connect(nats_account)
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    ack = await client.jetstream().publish("s.1", b"kept")
    await client.close()
    nats_server.kill()
    nats_server.start()
    client = await nats.connect(nats_account)
    assert (await client.jetstream().get_msg("S", ack.seq)).data == b"kept"
    await client.close()


def test_postgres_keeps_what_it_committed_across_a_kill(
    postgres_server: Postgres, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        connection.commit()
        postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)


def test_a_server_is_killed_and_started_once_however_often_it_is_asked(
    postgres_server: Postgres, database_url: str
) -> None:
    for _ in range(2):
        postgres_server.kill()
    for _ in range(2):
        postgres_server.start()
    psycopg.connect(database_url).close()


def test_a_suspended_backend_stands_still_and_no_other(
    postgres_server: Postgres, database_url: str
) -> None:
    with (
        closing(psycopg.connect(database_url)) as suspended,
        psycopg.connect(database_url) as other,
    ):
        with postgres_server.suspended(suspended.info.backend_pid):
            suspended.pgconn.send_query(b"SELECT 7")
            assert other.execute("SELECT 8").fetchone() == (8,)
            assert select.select([suspended.fileno()], [], [], 0.3)[0] == []
        assert select.select([suspended.fileno()], [], [], 10)[0] == [suspended.fileno()]


def test_a_copy_of_a_database_has_its_tables(postgres_server: Postgres, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE copied ()")
    copy = postgres_server.create_database(template=database_url.rpartition("/")[2])
    with psycopg.connect(copy) as connection:
        connection.execute("SELECT * FROM copied")
    postgres_server.drop_database(copy)
