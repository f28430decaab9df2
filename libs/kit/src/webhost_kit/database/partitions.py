"""Partitions: the numbered parts of one job, shared fairly among the running processes.

Guarantees: each of the `count` partitions is worked on by one process, and no process holds more
than its even share, rounded up. A new process gets its share within seconds; the share of a
process that died, hangs or lost Postgres is taken over within 10 seconds.
Not guaranteed: that two never overlap on a partition for a moment. A process that was suspended
goes on for an instant when it wakes, so what is written must be conditional or repeatable.

Each process has one connection of its own. It holds a shared lock there that counts it as a
member, and one lock for each of its partitions. The server ends the connection, and with it the
locks, of a process whose heartbeats stop. Its locking statements are at the end of the file.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

import psycopg
import structlog
from psycopg.rows import TupleRow

from webhost_kit.database.away import is_away
from webhost_kit.database.leadership import HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, open_lock_session
from webhost_kit.tasks import cancel

log = structlog.get_logger(__name__)

RETRY_S = 0.5
MEMBER = 1_000_000
"""The number, above any partition's, of the lock that all members share."""

Work = Callable[[int], Awaitable[None]]
"""Works on one partition until it is cancelled."""


class PartitionShare:
    """This process's share of the partitions of the work `name`, within one schema.

    `check` says what keeps this process from working at all: as long as it complains, the process
    holds nothing and the others share everything.
    """

    def __init__(self, dsn: str, name: str, count: int, *, check: Callable[[], str | None]) -> None:
        self._dsn = dsn
        self._name = name
        self._count = count
        self._check = check
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._problem: str | None = "starting"

    def check(self) -> str | None:
        """Say what keeps this process from holding its share; an empty share is healthy."""
        return self._problem

    async def run(self, work: Work) -> None:
        """Run `work` for each partition while it is held. Raises what `work` raises."""
        while True:
            try:
                if (problem := self._check()) is None:
                    problem = await self._share(work)
                self._problem = problem
            except Exception as error:
                if not is_away(error):
                    raise
                self._problem = f"database away: {type(error).__name__}"
                log.warning("share lost", name=self._name, reason=str(error).partition("\n")[0])
            await asyncio.sleep(RETRY_S)

    async def _share(self, work: Work) -> str:
        """Work until `check` complains; return what it says."""
        async with await open_lock_session(self._dsn, f"share {self._name}") as connection:
            try:
                await self._ask(connection, _JOIN)
                while (problem := self._check()) is None:
                    await self._balance(connection, work)
                    self._problem = None
                    await asyncio.sleep(HEARTBEAT_S)
                    for task in self._tasks.values():
                        if task.done():
                            task.result()
                log.warning("share released", name=self._name, reason=problem)
                return problem
            finally:
                await self._cancel(*self._tasks)

    async def _balance(self, connection: psycopg.AsyncConnection[TupleRow], work: Work) -> None:
        """Release partitions beyond our share, take free ones; this also is the heartbeat."""
        members = await self._ask(connection, _COUNT_MEMBERS)
        most = math.ceil(self._count / max(members, 1))
        for partition in sorted(self._tasks)[most:]:
            await self._cancel(partition)
            await self._ask(connection, _UNLOCK, partition)
            log.info("partition released", name=self._name, partition=partition, members=members)
        for partition in range(self._count):
            if len(self._tasks) >= most:
                return
            if partition not in self._tasks and await self._ask(connection, _TRY_LOCK, partition):
                log.info("partition taken", name=self._name, partition=partition, members=members)
                self._tasks[partition] = asyncio.ensure_future(work(partition))

    async def _cancel(self, *partitions: int) -> None:
        await cancel(*(self._tasks.pop(partition) for partition in partitions))

    async def _ask(
        self, connection: psycopg.AsyncConnection[TupleRow], statement: str, number: int = MEMBER
    ) -> int:
        async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
            cursor = await connection.execute(
                statement.encode(), {"name": self._name, "number": number}
            )
            row = await cursor.fetchone()
        return int(row[0]) if row is not None and row[0] else 0


_KEY = "hashtext(%(name)s || ' of ' || current_schema()), %(number)s::integer"
_JOIN = f"SELECT 1 FROM pg_advisory_lock_shared({_KEY})"  # noqa: S608 - constants, here and below
_TRY_LOCK = f"SELECT pg_try_advisory_lock({_KEY})::integer"
_UNLOCK = f"SELECT pg_advisory_unlock({_KEY})::integer"
_COUNT_MEMBERS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid = hashtext(%(name)s || ' of ' || current_schema())::oid
        AND objid = %(number)s::integer::oid
"""
