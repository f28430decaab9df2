"""Session-level advisory locks, each held by a connection of its own.

Guarantees: a lock is free the moment its connection ends, and the server ends the connection of a
holder that stops showing that it lives: one that was killed, cut off, or frozen. A holder that
notices the loss is stopped in the middle of its work.
Not guaranteed: that two holders never overlap for a moment (one that was frozen may go on for an
instant when it wakes), so what they write is conditional or repeatable.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import TupleRow
from webhost_kit.database.leadership import HEARTBEAT_S, heartbeat, open_lock_session, try_lock
from webhost_kit.tasks import cancel

POLL_S = 0.3


class Lock:
    """A lock that is held."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def confirm(self) -> None:
        """Raise psycopg.OperationalError when the lock was lost with its connection."""
        try:
            await heartbeat(self._connection)
        except TimeoutError as error:
            raise LockLost("no answer to a heartbeat") from error


class LockLost(psycopg.OperationalError):
    """The lock's connection ended, or Postgres does not answer on it."""


@asynccontextmanager
async def held(dsn: str, name: str) -> AsyncGenerator[Lock | None]:
    """Hold the lock of this name, in this schema, or give None when another holds it.

    Raises LockLost out of the work that is done under it, once the lock is lost.
    """
    async with await open_lock_session(dsn, f"lock {name}") as connection:
        if not await _try(connection, name):
            yield None
            return
        async with _alive(connection):
            yield Lock(connection)


@asynccontextmanager
async def waited_for(dsn: str, name: str) -> AsyncGenerator[Lock]:
    """Hold the lock of this name, in this schema, as soon as it is free."""
    async with await open_lock_session(dsn, f"lock {name}") as connection:
        while not await _try(connection, name):  # noqa: ASYNC110 - in another process
            await asyncio.sleep(POLL_S)
        async with _alive(connection):
            yield Lock(connection)


async def _try(connection: psycopg.AsyncConnection[TupleRow], name: str) -> bool:
    try:
        return await try_lock(connection, name)
    except TimeoutError as error:
        raise LockLost("no answer about a lock") from error


@asynccontextmanager
async def _alive(connection: psycopg.AsyncConnection[TupleRow]) -> AsyncGenerator[None]:
    """Send heartbeats beside the work; cancel the work, and raise LockLost, when one fails."""
    lost: list[Exception] = []

    async def beat(scope: asyncio.Timeout) -> None:
        try:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                await heartbeat(connection)
        except Exception as error:
            lost.append(error)
            scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            beating = asyncio.create_task(beat(scope))
            try:
                yield
            finally:
                await cancel(beating)
    except TimeoutError as error:
        if not lost:
            raise
        raise LockLost(f"lock lost: {lost[0]}") from error
