"""Waking other processes by a commit: NOTIFY and LISTEN on a channel of the service's own schema.

Guarantees: what is notified in a transaction arrives when that has committed, and not otherwise,
at everybody who listens then. Whoever was not listening learns nothing: it has to look by itself
when it begins to.
"""

from collections.abc import AsyncGenerator

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.database.engine import connect_arguments

_NOTIFY = text("SELECT pg_notify(current_schema() || '.' || :channel, '')")


async def notify(connection: AsyncConnection, channel: str) -> None:
    """Wake whoever listens, with the commit of this transaction."""
    await connection.execute(_NOTIFY, {"channel": channel})


async def subscribe(connection: psycopg.AsyncConnection[TupleRow], channel: str) -> None:
    """Let this connection be woken."""
    cursor = await connection.execute("SELECT current_schema()")
    row = await cursor.fetchone()
    full_name = sql.Identifier(f"{row[0] if row else 'public'}.{channel}")
    await connection.execute(sql.SQL("LISTEN {}").format(full_name))


async def listen(dsn: str, name: str, channel: str) -> AsyncGenerator[None]:
    """Yield once when it listens, and again whenever it was woken.

    `name` is what the server shows of the connection. Raises an `is_away` error when that ends.
    """
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, application_name=name, **connect_arguments()
    ) as connection:
        await subscribe(connection, channel)
        yield
        async for _ in connection.notifies():
            yield
