"""One connection of its own for the batched statements: always prepared, never pooled."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
import structlog
from psycopg.rows import TupleRow
from webhost_kit.database.engine import CONNECT_TIMEOUT_S, connect_arguments
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)

STATEMENT_TIMEOUT_S = 5

# Every statement finds its rows by key. A plan made while the tables were still empty would
# read them whole, and stay.
OPTIONS = (
    f"-c statement_timeout={STATEMENT_TIMEOUT_S}s"
    " -c enable_seqscan=off -c plan_cache_mode=force_generic_plan"
)


class NotRun(Unavailable):
    """There was no connection: certainly, nothing was run."""


class Statements:
    """Runs one statement, or several in one transaction, at a time; reconnects by itself."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None

    async def execute(self, *steps: tuple[str, Mapping[str, Any]]) -> list[TupleRow]:
        """Run the steps in one transaction; return the last one's rows.

        Raises NotRun, or another Unavailable when it cannot be known whether they were run.
        """
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S + CONNECT_TIMEOUT_S):
                connection = await self._open()
                if len(steps) == 1:
                    return await _run(connection, *steps[0])
                async with connection.transaction():
                    for step in steps[:-1]:
                        await _run(connection, *step)
                    return await _run(connection, *steps[-1])
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("statement not carried out", error=str(error).partition("\n")[0])
            kind = NotRun if self._connection is None else Unavailable
            await self.close()
            raise kind("The database is away; try again shortly.") from error

    async def close(self) -> None:
        """Close the connection; the next statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> psycopg.AsyncConnection[TupleRow]:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self._dsn,
                autocommit=True,
                prepare_threshold=0,
                **connect_arguments(OPTIONS),
            )
        return self._connection


async def _run(
    connection: psycopg.AsyncConnection[TupleRow], query: str, parameters: Mapping[str, Any]
) -> list[TupleRow]:
    cursor = await connection.execute(query.encode(), parameters)
    return await cursor.fetchall() if cursor.description else []
