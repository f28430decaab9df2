"""Session-level advisory locks: held by a connection of its own, free the moment it ends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow
from webhost_kit.database.engine import connect_arguments


class Lock:
    """A lock that is held."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def confirm(self) -> None:
        """Raise psycopg.OperationalError when the lock was lost with its connection."""
        await self._connection.execute("SELECT 1")


@asynccontextmanager
async def held(dsn: str, name: str) -> AsyncGenerator[Lock | None]:
    """Hold the lock of this name, in this schema, or give None when another holds it."""
    async with _connected(dsn) as connection:
        cursor = await connection.execute(f"SELECT pg_try_advisory_lock({_KEY})", (name,))
        row = await cursor.fetchone()
        yield Lock(connection) if row is not None and row[0] else None


@asynccontextmanager
async def waited_for(dsn: str, name: str) -> AsyncGenerator[Lock]:
    """Hold the lock of this name, in this schema, as soon as nobody else does."""
    async with _connected(dsn) as connection:
        await connection.execute(f"SELECT pg_advisory_lock({_KEY})", (name,))
        yield Lock(connection)


_KEY: LiteralString = "hashtextextended(current_schema() || ' ' || %s, 0)"


@asynccontextmanager
async def _connected(dsn: str) -> AsyncGenerator[psycopg.AsyncConnection[TupleRow]]:
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **connect_arguments())
    async with connection:
        yield connection
