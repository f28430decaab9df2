"""One service's Postgres: its engine, and transactions that retry."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
import structlog
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from webhost_kit import deadline
from webhost_kit.database import row_security
from webhost_kit.database.away import is_away
from webhost_kit.database.refusals import note_refusals_of
from webhost_kit.database.values import strip_values_of
from webhost_kit.errors import Unavailable, VersionConflict
from webhost_kit.process.metrics import ReadGauge

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
VANISHED_AFTER_S = 11
TRANSACTION_TIMEOUT_S = 20
IDLE_IN_TRANSACTION_S = 5
"""A client that hangs inside a transaction, holding locks, is disconnected after this long."""

INCARNATION = """
    SELECT pg_postmaster_start_time()::text || '/' ||
        (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Changes when the server is restarted, replaced or restored under its clients."""

_KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


def sqlalchemy_url(dsn: str) -> str:
    """Return a `postgresql://` address in the form that names the driver."""
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


def connect_arguments(options: str = "") -> dict[str, Any]:
    """Return how every connection to Postgres is made, with these server options too.

    Either side notices within VANISHED_AFTER_S that its peer has vanished: its locks are then
    released, so that another process can take over its work.
    """
    vanished_ms = VANISHED_AFTER_S * 1000
    server = {f"tcp_{name}": value for name, value in _KEEPALIVES.items()}
    server["tcp_user_timeout"] = vanished_ms
    server["idle_in_transaction_session_timeout"] = IDLE_IN_TRANSACTION_S * 1000
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": vanished_ms,
        **_KEEPALIVES,
        "options": " ".join([*(f"-c {name}={value}" for name, value in server.items()), options]),
    }


_in_use = ReadGauge(
    "webhost_database_connections_in_use", "Connections of the pool to Postgres that are in use"
)
_most = ReadGauge(
    "webhost_database_connections_max",
    "How many connections the pool may have; who finds none free waits",
)

WRITABLE = text("SELECT current_setting('transaction_read_only') = 'off'")


class Transactions:
    """Transactions on the connections of an engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Begin, then commit or roll back.

        Raises Unavailable when Postgres is away or does not answer for TRANSACTION_TIMEOUT_S,
        when no connection became free in time, or past the deadline of the request it is for.
        """
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT_S), self.engine.begin() as connection:
                yield connection
                await deadline.limit_commit(connection, IDLE_IN_TRANSACTION_S * 1000)
        except Exception as error:
            if not is_away(error):
                raise
            log.warning("database unavailable", error=str(error).partition("\n")[0])
            raise Unavailable("The database is unavailable; try again shortly.") from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[AsyncConnection]:
        """Read several things as of one moment. Raises Unavailable when Postgres is away."""
        async with self.transaction() as connection:
            await connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    async def retry_conflicts(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, tries: int = 5
    ) -> T:
        """Run `work` in a transaction; run it again if another decision was recorded first.

        Raises VersionConflict when that happens `tries` times in a row.
        """
        for _ in range(tries - 1):
            try:
                async with self.transaction() as connection:
                    return await work(connection)
            except VersionConflict:
                await asyncio.sleep(0)
        async with self.transaction() as connection:
            return await work(connection)


class Database(Transactions):
    """The service's own schema, which no other service reads.

    With `acts_for`, each transaction names whose rows it is about, see `row_security`.
    `incarnation` is that of the newest connection: what was remembered of another one may not be
    in this database. `verified` is the incarnation that facts may be appended to; None, the
    default, lets any pass. See `webhost_kit.eventsourcing.own_facts`.
    """

    def __init__(
        self, dsn: str, *, pool_size: int = 8, acts_for: Callable[[], str] | None = None
    ) -> None:
        self.dsn = dsn
        engine = create_async_engine(
            sqlalchemy_url(dsn),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=CONNECT_TIMEOUT_S,
            pool_pre_ping=True,
            connect_args=connect_arguments(),
            hide_parameters=True,
            isolation_level=None if acts_for is None else row_security.ISOLATION,
        )
        if acts_for is not None:
            row_security.name_users(engine.sync_engine)
            engine = row_security.acting_for(engine, acts_for)
        super().__init__(engine)
        note_refusals_of(engine.sync_engine)
        strip_values_of(engine.sync_engine)
        self._problem: str | None = "not asked yet"
        self.incarnation: str | None = None
        self.verified: str | None = None
        event.listen(engine.sync_engine, "connect", self._on_connect)
        pool = engine.sync_engine.pool
        if isinstance(pool, QueuePool):
            _in_use.read(pool.checkedout)
            _most.read(lambda: 2 * pool_size)

    def check(self) -> str | None:
        """Say what is wrong with the database, as of the last probe."""
        return self._problem

    async def run(self, *, every_s: float = 1.0) -> None:
        """Probe the database again and again, so that `check` never has to wait."""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S), self.engine.connect() as connection:
                    writable = (await connection.execute(WRITABLE)).scalar_one()
                self._problem = None if writable else "read-only"
            except Exception as error:
                if not is_away(error):
                    raise
                self._problem = f"away: {type(error).__name__}"
            await asyncio.sleep(every_s)

    def _on_connect(self, connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(INCARNATION)
        self.incarnation = record.info["incarnation"] = cursor.fetchone()[0]
        record.info["database"] = self
        cursor.close()
        connection.rollback()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def is_unique_violation(error: IntegrityError) -> bool:
    """Say whether a row with this key was there already."""
    return isinstance(error.orig, psycopg.errors.UniqueViolation)
