"""The connection of the batched statements: what they take and give, and how they fail."""

import asyncio
import select
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from webhost_kit.database.statements import KeyTaken, Statements
from webhost_kit.errors import Unavailable

PID = "SELECT pg_backend_pid()"
TABLE = "CREATE TABLE IF NOT EXISTS taken (key text PRIMARY KEY)"
TAKE = "INSERT INTO taken VALUES (%(key)s)"


@pytest.fixture
async def statements(database_url: str) -> AsyncIterator[Statements]:
    made = Statements(database_url, "test")
    await made.execute((TABLE, {}))
    yield made
    await made.close()


async def scalar(statements: Statements, query: str, **parameters: Any) -> Any:
    [(value,)] = await statements.execute((query, parameters))
    return value


async def test_a_connection_that_ended_while_it_was_idle_fails_no_statement(
    statements: Statements, database_url: str
) -> None:
    pid = await scalar(statements, PID)
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone()
    assert ended == (True,)
    other = await scalar(statements, PID)
    assert other != pid
    assert await scalar(statements, PID) == other


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 'it\'s "quoted" \\ back, {a,b} %s %(x)s\n\N{SNOWMAN}'),
        ("text", ""),
        ("text", None),
        ("bigint", 2**62),
        ("bigint", -1),
        ("smallint", 7),
        ("boolean", True),
        ("bytea", bytes(range(256))),
        ("text[]", ["plain", 'a "b"', "c,d", "{e}", "f\\g", "NULL", "", "\N{SNOWMAN}"]),
        ("text[]", []),
        ("text[]", ["a", None]),
        ("bigint[]", [1, 2**40, -3]),
        ("bytea[]", [b"\x00\xff", None, b""]),
    ],
)
async def test_values_come_back_as_they_were_sent(
    statements: Statements, kind: str, value: Any
) -> None:
    query = f"SELECT %(value)s::{kind}"
    for _ in range(2):  # prepared, and from then on
        assert await scalar(statements, query, value=value) == value


async def test_a_parameter_is_numbered_once_and_a_percent_sign_stays_one(
    statements: Statements,
) -> None:
    query = "SELECT 7 %% 4, %(b)s::text, %(a)s::text, %(b)s::text"
    assert await statements.execute((query, {"a": "1", "b": "2"})) == [(3, "2", "1", "2")]


async def test_a_statement_may_be_larger_than_every_buffer_and_have_many_rows(
    statements: Statements,
) -> None:
    size = 30_000_000
    assert await scalar(statements, "SELECT length(%(text)s::text)", text="x" * size) == size
    rows = await statements.execute(("SELECT n FROM generate_series(1, 200000) n", {}))
    assert rows == [(n,) for n in range(1, 200_001)]


async def test_steps_are_one_transaction(statements: Statements) -> None:
    with pytest.raises(Unavailable):
        await statements.execute((TAKE, {"key": "a"}), ("SELECT 1 / 0", {}))
    rows = await statements.execute((TAKE, {"key": "a"}), ("SELECT key FROM taken", {}))
    assert rows == [("a",)]


async def test_a_key_that_is_taken_costs_no_connection(statements: Statements) -> None:
    pid = await scalar(statements, PID)
    await statements.execute((TAKE, {"key": "a"}))
    for _ in range(2):
        with pytest.raises(KeyTaken):
            await statements.execute((TAKE, {"key": "a"}))
    assert await scalar(statements, PID) == pid


async def test_nobody_gets_the_answer_to_a_statement_that_was_cancelled(
    statements: Statements,
) -> None:
    pid = await scalar(statements, PID)
    slow = asyncio.create_task(scalar(statements, "SELECT 'late' FROM pg_sleep(1)"))
    await asyncio.sleep(0.1)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    async with asyncio.timeout(0.8):
        assert await scalar(statements, PID) != pid
    assert await scalar(statements, "SELECT 'its own'") == "its own"


async def test_a_server_that_hangs_is_given_up(database_url: str) -> None:
    statements = Statements(database_url, "test", timeout_s=0.2)
    # Who asks for so much time has none from the server, which would end the statement itself.
    await statements.execute(("SET statement_timeout = 0", {}))
    with pytest.raises(Unavailable):
        await statements.execute(("SELECT FROM pg_sleep(60)", {}))
    assert await scalar(statements, "SELECT 1") == 1
    await statements.close()


async def test_a_connection_that_breaks_under_a_statement_is_an_error_at_once(
    statements: Statements, database_url: str
) -> None:
    pid = await scalar(statements, PID)
    waiting = asyncio.create_task(scalar(statements, "SELECT FROM pg_sleep(60)"))
    await asyncio.sleep(0.1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable):
            await waiting
    assert await scalar(statements, "SELECT 1") == 1


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_that_is_reset_behind_last_words_is_an_error_at_once(
    database_url: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    with _relay(database_url) as (url, reset):

        async def main() -> None:
            statements = Statements(url, "test")
            await statements.execute(("SELECT 1", {}))
            waiting = asyncio.create_task(statements.execute(("SELECT FROM pg_sleep(60)", {})))
            await asyncio.sleep(0.1)
            reset()  # on the loop's thread: it finds the words and the reset together
            async with asyncio.timeout(2):
                with pytest.raises(Unavailable):
                    await waiting

        run(main())


@contextmanager
def _relay(database_url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A way to the server, and what says something in its name on it and resets it.

    So does a server that ends while a statement is on its way to it.
    """
    over = threading.Event()
    server = conninfo_to_dict(database_url)
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def relay() -> None:
            client, _ = listening.accept()
            clients.append(client)
            with socket.create_connection((server["host"], int(server["port"]))) as upstream:
                while not over.is_set():
                    for one in select.select([client, upstream], [], [], 0.02)[0]:
                        (upstream if one is client else client).sendall(one.recv(65536))

        relaying = threading.Thread(target=relay)

        def reset() -> None:
            over.set()
            relaying.join()
            [client] = clients
            said = b"SWARNING\0VWARNING\0C57P02\0Mgoing\0\0"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"N" + struct.pack("!i", len(said) + 4) + said)
            client.close()

        relaying.start()
        port = listening.getsockname()[1]
        yield make_conninfo(database_url, port=port, sslmode="disable", gssencmode="disable"), reset
