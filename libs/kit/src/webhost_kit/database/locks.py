"""Session-level advisory locks, each held by a connection of its own.

Guarantees: a lock is free the moment its connection ends, and the server ends the connection of a
holder whose heartbeats stop: one that was killed, cut off, or frozen. A holder that notices the
loss is stopped in the middle of its work.
Not guaranteed: that two holders never overlap for a moment (one that was frozen may go on for an
instant when it wakes), so what they write is conditional or repeatable.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import psycopg
from psycopg.rows import TupleRow

from webhost_kit.database.away import is_away
from webhost_kit.database.leadership import HEARTBEAT_S, heartbeat, open_lock_session, try_lock
from webhost_kit.errors import Unavailable
from webhost_kit.tasks import cancel

POLL_S = 0.3

T = TypeVar("T")


class LockLost(Unavailable):
    """Postgres is away, or has ended the lock's connection."""


class Lock:
    """A lock that is held."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def confirm(self) -> None:
        """Raise LockLost when the lock was lost with its connection."""
        await _asked(heartbeat(self._connection))


@asynccontextmanager
async def held(dsn: str, name: str) -> AsyncGenerator[Lock | None]:
    """Hold the lock of this name, in this schema, or yield None if another process holds it.

    Raises LockLost, also out of the work that is done under it, once the lock is lost.
    """
    async with _session(dsn, name) as connection:
        if not await _asked(try_lock(connection, name)):
            yield None
            return
        async with _alive(connection):
            yield Lock(connection)


@asynccontextmanager
async def waited_for(dsn: str, name: str) -> AsyncGenerator[Lock]:
    """Hold the lock of this name, in this schema, as soon as it is free. Raises LockLost."""
    async with _session(dsn, name) as connection:
        while not await _asked(try_lock(connection, name)):  # noqa: ASYNC110 - in another process
            await asyncio.sleep(POLL_S)
        async with _alive(connection):
            yield Lock(connection)


def session_of(name: str) -> str:
    """Return what the session that holds or asks for this lock is called at the server."""
    return f"lock {name}"


@asynccontextmanager
async def _session(dsn: str, name: str) -> AsyncGenerator[psycopg.AsyncConnection[TupleRow]]:
    connection = await _asked(open_lock_session(dsn, session_of(name)))
    try:
        yield connection
    finally:
        await connection.close()


async def _asked(answer: Awaitable[T]) -> T:
    """Await Postgres's answer. Raises LockLost when there is none."""
    try:
        return await answer
    except Exception as error:
        if not is_away(error):
            raise
        raise LockLost(f"The database is away: {type(error).__name__}") from error


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
        raise LockLost(f"The lock was lost: {lost[0]}") from error
