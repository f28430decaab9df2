"""One connection of its own for the batched statements: always prepared, never pooled.

For what SQLAlchemy cannot do: a statement that exceeds its time is not cancelled but abandoned with
its connection, and the caller learns whether it may have run. The setting `webhost.incarnation`
names the incarnation of the database that the connection is to.
"""

import asyncio
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg.rows import TupleRow

from webhost_kit.database.engine import INCARNATION, connect_arguments
from webhost_kit.database.prepared import PreparedStatements
from webhost_kit.database.refusals import note_refusal
from webhost_kit.database.values import strip_values
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)

TIMEOUT_S = 5.0
GRACE_S = 0.5
"""A healthy server ends a statement itself; one that hangs is given up this much later."""

# Every statement finds its rows by key. A plan made while the tables were still empty would
# read them whole, and stay.
_OPTIONS = "-c enable_seqscan=off -c plan_cache_mode=force_generic_plan"


class NotRun(Unavailable):
    """There was no connection: the statement certainly did not run."""


class KeyTaken(NotRun):
    """A row with such a key was committed meanwhile: the statement changed nothing."""


class Statements:
    """Runs one statement, or several in one transaction, at a time; reconnects by itself.

    A connection that has ended while it was idle is noticed before anything is sent.
    `name` is what the server shows of the connection.
    """

    def __init__(
        self, dsn: str, name: str, *, timeout_s: float = TIMEOUT_S, options: str = ""
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._timeout_s = timeout_s
        self._options = f"-c statement_timeout={round(timeout_s * 1000)} {_OPTIONS} {options}"
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None
        self._prepared: PreparedStatements

    async def execute(self, *steps: tuple[str, Mapping[str, Any]]) -> list[TupleRow]:
        """Run the steps in one transaction; return the last one's rows.

        Raises NotRun (KeyTaken where a unique key was in the way), or another Unavailable when it
        cannot be known whether they were run, or still will be: a server that hangs may have
        received them.
        """
        try:
            if self._connection is not None and _has_ended(self._connection):
                await self.close()
            is_new = self._connection is None
            connection = self._connection = self._connection or await self._connect()
            limit_s = self._timeout_s + GRACE_S
            # Not a cancellation: that would wait for the server to agree.
            clock = asyncio.get_running_loop().call_later(limit_s, _sever, connection)
            try:
                if is_new:
                    self._prepared = PreparedStatements(connection)
                    await self._prepared.run(NAME_INCARNATION, {})
                if len(steps) == 1:
                    return await self._prepared.run(*steps[0])
                async with connection.transaction():
                    for step in steps[:-1]:
                        await self._prepared.run(*step)
                    return await self._prepared.run(*steps[-1])
            finally:
                clock.cancel()
        except asyncio.CancelledError:
            await self.close()
            raise
        except psycopg.errors.UniqueViolation as error:
            strip_values(error)
            raise KeyTaken("Another request was faster; try again shortly.") from error
        except (psycopg.Error, OSError) as error:
            note_refusal(error)
            strip_values(error)
            log.warning(
                "statement not carried out",
                connection=self._name,
                error=str(error),
            )
            kind = NotRun if self._connection is None else Unavailable
            await self.close()
            raise kind("The database is unavailable; try again shortly.") from error

    async def close(self) -> None:
        """Close the connection; the next statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> psycopg.AsyncConnection[TupleRow]:
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=0,
            application_name=self._name,
            **connect_arguments(self._options),
        )


NAME_INCARNATION = f"SELECT set_config('webhost.incarnation', ({INCARNATION}), false)"


def _has_ended(connection: psycopg.AsyncConnection[TupleRow]) -> bool:
    """Say whether an idle connection has something to read: a server says nothing but its end."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _sever(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    if not connection.closed:
        with (
            socket.socket(fileno=os.dup(connection.fileno())) as ours,
            suppress(OSError),  # it was reset meanwhile
        ):
            ours.shutdown(socket.SHUT_RDWR)
