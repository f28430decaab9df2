"""A real nats-server and a real Postgres for tests, on free ports, with temporary storage.

Fixtures (session): `nats_server`, `postgres_server`. Fixtures (per test): `nats_account`, an
account with a JetStream of its own; `database_url`, an empty database. Fault tests use the
servers' `.kill()` (SIGKILL) and `.start()` (again, on the same data and port).

Outside of pytest, `running_nats()` and `running_postgres()` are context managers.
With WEBHOST_TEST_INFRA=containers the servers run in testcontainers instead.
"""

import itertools
import os
import signal
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import psycopg
import pytest
from psycopg import sql
from webhost_local.installation.nats_config import Account, NatsUser

_ACCOUNTS = 1000
_PASSWORD = "for-tests"


class Server(Protocol):
    """A server that fault tests can stop and start; its data and its port stay."""

    @property
    def port(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    def send_signal(self, pid: int, number: signal.Signals) -> None:
        """To one of the server's processes, by the id that the server itself knows it by."""
        ...


class Nats:
    """A running nats-server; `url` is the first account's."""

    def __init__(self, server: Server, users: Iterable[str]) -> None:
        self._server = server
        self._unused = iter(users)
        self.url = self.new_account()

    def new_account(self) -> str:
        """Return the URL of an account that nobody has used: no streams, no messages."""
        user = next(self._unused)
        return f"nats://{user}:{_PASSWORD}@127.0.0.1:{self._server.port}"

    def start(self) -> None:
        """Start it again on the same data; returns when it is ready."""
        self._server.start()

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self._server.kill()

    def stop(self) -> None:
        self._server.stop()


class Postgres:
    """A running Postgres; `dsn` is the superuser's, on the database `postgres`."""

    def __init__(self, server: Server, password: str) -> None:
        self._server = server
        self._password = password
        self._numbers = itertools.count(1)
        self.dsn = self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._server.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """Make a database, a copy of `template` (nobody may be connected to it); return its DSN."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.dsn_of(name)

    def role_of(self, dsn: str) -> str:
        """Return a DSN of a role that is no superuser, who policies apply to and who migrates."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'service'").rowcount:
                connection.execute(
                    sql.SQL("CREATE ROLE service LOGIN PASSWORD {}").format(self._password)
                )
            connection.execute("GRANT ALL ON SCHEMA public TO service")
        return dsn.replace("://postgres:", "://service:", 1)

    def drop_database(self, dsn: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = dsn.rpartition("/")[2]
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    @contextmanager
    def suspended(self, pid: int) -> Generator[None]:
        """A backend, named by its pg_backend_pid(), that stands still inside the block."""
        self._server.send_signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(pid, signal.SIGCONT)

    def start(self) -> None:
        """Start it again on the same data; returns when it is ready."""
        self._server.start()

    def kill(self) -> None:
        """SIGKILL, backends included; returns when all are dead."""
        self._server.kill()

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def running_nats() -> Generator[Nats]:
    """A nats-server with an empty store. To be called from the main thread."""
    names = [f"t{number}" for number in range(_ACCOUNTS)]
    accounts = {name.upper(): Account([NatsUser(name, _PASSWORD)]) for name in names}
    with tempfile.TemporaryDirectory(prefix="webhost-nats-") as directory:
        server = _servers().nats(Path(directory), accounts)
        try:
            yield Nats(server, names)
        finally:
            server.stop()


@contextmanager
def running_postgres() -> Generator[Postgres]:
    """A Postgres with an empty cluster. To be called from the main thread."""
    with tempfile.TemporaryDirectory(prefix="webhost-postgres-") as directory:
        server = _servers().postgres(Path(directory), _PASSWORD)
        try:
            yield Postgres(server, _PASSWORD)
        finally:
            server.stop()


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Nats]:
    with running_nats() as nats:
        yield nats


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture
def nats_account(nats_server: Nats) -> str:
    """The URL of an account with an empty JetStream, for this test alone."""
    return nats_server.new_account()


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    """The DSN of an empty database, for this test alone."""
    dsn = postgres_server.create_database()
    yield dsn
    postgres_server.drop_database(dsn)


def _servers() -> ModuleType:
    if os.environ.get("WEBHOST_TEST_INFRA") == "containers":
        from tests.support import containers

        return containers
    from tests.support import processes

    return processes
