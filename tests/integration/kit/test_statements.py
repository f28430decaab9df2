"""The connection of the batched statements, when its server ends it."""

import psycopg
from webhost_kit.database.statements import Statements


async def test_a_connection_that_ended_while_it_was_idle_fails_no_statement(
    database_url: str,
) -> None:
    statements = Statements(database_url, "test")
    [(pid,)] = await statements.execute(("SELECT pg_backend_pid()", {}))
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone()
    assert ended == (True,)
    [(other,)] = await statements.execute(("SELECT pg_backend_pid()", {}))
    assert other != pid
    [(same,)] = await statements.execute(("SELECT pg_backend_pid()", {}))
    assert same == other
    await statements.close()
