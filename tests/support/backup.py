"""Backups, put back under the clients: of a database, and of all files of a nats-server.

A stream in restored files has the creation time that it had, unlike one that the server's own
commands restore: that it is an older one shows in its last message only.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from webhost_kit.bus.connection import Bus
from webhost_local.installation.nats_config import Account, NatsUser

from tests.support import processes
from tests.support.deadline import eventually
from tests.support.infra import Postgres

_USER = NatsUser("test", "for-tests")


class RestorableNats:
    """A server of one account, `url`."""

    def __init__(self, directory: Path) -> None:
        self._store, self._copy = directory / "store", directory / "copy"
        self._server = processes.nats(directory, {"TEST": Account([_USER])})
        self.url = f"nats://{_USER.name}:{_USER.password}@127.0.0.1:{self._server.port}"

    async def back_up(self, bus: Bus) -> None:
        """Keep what the streams hold now; return when this client is connected again."""
        await self._copied(bus, self._store, self._copy)

    async def restore(self, bus: Bus) -> None:
        """Let the streams hold what was kept; return when this client is connected again."""
        await self._copied(bus, self._copy, self._store)

    async def _copied(self, bus: Bus, source: Path, to: Path) -> None:
        before = bus.reconnects
        self._server.kill()
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(source, to)
        self._server.start()

        async def connected() -> bool:
            return bus.reconnects > before

        await eventually(connected, "a connection to the server")

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def running_restorable_nats() -> Iterator[RestorableNats]:
    """Such a server with an empty store. To be called from the main thread."""
    with tempfile.TemporaryDirectory(prefix="webhost-nats-") as directory:
        nats = RestorableNats(Path(directory))
        try:
            yield nats
        finally:
            nats.stop()


def _alone(postgres: Postgres, database: str, statement: str, *others: str) -> None:
    """Run a statement about a database, named first in it, while nobody is connected to it."""
    names = [sql.Identifier(name) for name in (database, *others)]
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(database))
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (database,),
        )
        connection.execute(sql.SQL(statement).format(*names))


def _allow(postgres: Postgres, database: str) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(database))
        )


@contextmanager
def a_copy(postgres: Postgres, dsn: str) -> Iterator[Callable[[], None]]:
    """A copy of the database as it is now; what is yielded puts it in the database's place."""
    database = dsn.rpartition("/")[2]
    copy, replaced = f"{database}_copy", f"{database}_replaced"
    _alone(postgres, database, "CREATE DATABASE {1} TEMPLATE {0} STRATEGY FILE_COPY", copy)
    _allow(postgres, database)

    def put_back() -> None:
        _alone(postgres, database, "ALTER DATABASE {0} RENAME TO {1}", replaced)
        _alone(postgres, copy, "ALTER DATABASE {0} RENAME TO {1}", database)
        _allow(postgres, database)

    try:
        yield put_back
    finally:
        for name in (copy, replaced):
            postgres.drop_database(postgres.dsn_of(name))
