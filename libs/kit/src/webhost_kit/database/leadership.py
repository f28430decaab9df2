"""Leadership: work that at most one process does at a time, and that another one takes over.

Guarantees: a leader that dies, hangs, loses Postgres or fails at its work is replaced within 10
seconds, if another process waits. The lock is a session advisory lock on a connection of its own:
it ends with the connection, and the server ends the connection of a leader whose heartbeats stop.
Not guaranteed: that two never overlap for a moment. A leader that was suspended may go on for an
instant when it wakes, so what it writes must be conditional or repeatable.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import psycopg
import structlog
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.database.away import is_away
from webhost_kit.database.engine import connect_arguments
from webhost_kit.tasks import run_together

log = structlog.get_logger(__name__)

HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 3.0
EXPIRES_S = 5
"""The server ends a session that sends no heartbeat for this long."""
PATIENCE_S = 3.0
"""A leader whose work has complained for this long releases its leadership."""
POLL_S = 0.5
STEP_BACK_S = 1.5
"""A leader that released waits longer than the others' polling interval, so that one takes over."""


END_SESSIONS = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = :name
    """
)


class WorkStuck(Exception):
    """The leader's work made no progress; another process may do better."""


class Leadership:
    """The right to do the work `name`, within one schema.

    `check` says what is wrong with the work while it runs: after PATIENCE_S of uninterrupted
    complaints the leader releases its leadership.
    """

    def __init__(self, dsn: str, name: str, *, check: Callable[[], str | None] | None = None):
        self._dsn = dsn
        self._name = name
        self._check = check
        self._problem: str | None = "starting"
        self._waits = False

    @property
    def waits(self) -> bool:
        """Say whether another process leads, as far as was seen."""
        return self._waits

    def check(self) -> str | None:
        """Say what keeps this process from leading or waiting; waiting is healthy."""
        return self._problem

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Lead whenever it is this process's turn.

        While it leads, `work` runs. When `work` returns, raises because a dependency is away, or
        complains for too long, leadership is released for a moment. Anything else that `work`
        raises is passed on.
        """
        while True:
            try:
                await self._lead(work)
            except WorkStuck as error:
                self._problem = str(error)
                log.warning("leadership released", name=self._name, reason=str(error))
            except Exception as error:
                if not is_away(error):
                    raise
                self._problem = f"database away: {type(error).__name__}"
                log.warning(
                    "leadership lost", name=self._name, reason=str(error).partition("\n")[0]
                )
            await asyncio.sleep(STEP_BACK_S)

    async def _lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with await open_lock_session(self._dsn, f"leadership {self._name}") as connection:
            while not await try_lock(connection, self._name):
                self._problem, self._waits = None, True
                await asyncio.sleep(POLL_S)
            self._problem, self._waits = None, False
            log.info("leading", name=self._name)
            await run_together(work(), self._keep(connection))

    async def _keep(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        well_at = monotonic()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await heartbeat(connection)
            problem = self._check() if self._check is not None else None
            if problem is None:
                well_at = monotonic()
            elif monotonic() - well_at > PATIENCE_S:
                raise WorkStuck(problem)


async def open_lock_session(dsn: str, name: str) -> psycopg.AsyncConnection[TupleRow]:
    """Return a connection for session locks, which the server ends when heartbeats stop."""
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=True,
        application_name=name[:63],
        **connect_arguments(f"-c idle_session_timeout={EXPIRES_S}s"),
    )


async def end_lock_sessions(connection: AsyncConnection, session: str) -> None:
    """Make the holders of these locks release them and start over, for instance after a reset."""
    await connection.execute(END_SESSIONS, {"name": session[:63]})


async def heartbeat(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Show the server that this session is alive. Raises an `is_away` error if it is not."""
    async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
        await connection.execute("SELECT 1")


async def try_lock(connection: psycopg.AsyncConnection[TupleRow], name: str) -> bool:
    """Take the lock of this name within the current schema, unless another session has it."""
    async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
        cursor = await connection.execute(
            "SELECT pg_try_advisory_lock(hashtext(%s), hashtext(current_schema()))", (name,)
        )
        row = await cursor.fetchone()
    return row is not None and bool(row[0])
