"""Whose rows a transaction is about, where policies in Postgres keep users' rows apart.

Guarantees: a transaction names its user, or ALL_USERS, in the exchange that begins it, and for
itself alone, so that no connection carries a user over into another request. A policy that compares
rows with `current_setting('webhost.user_id')` then hides every row of the others, whatever the
query asks for. A transaction that names nobody sees no user's row, and on a connection that never
named anybody fails.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import psycopg
from psycopg import generators, pq, sql
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine
from sqlalchemy.event import listens_for
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from webhost_kit.database.values import strip_values

ALL_USERS = "*"
"""Named by work that is about nobody in particular: a projection, a cleanup, a migration."""
ISOLATION = "AUTOCOMMIT"
"""Of an engine whose transactions begin here: the driver would send a BEGIN of its own."""

OPTION = "acts_for"
_BEGIN = sql.SQL("BEGIN; SET LOCAL webhost.user_id = {}")

_user: ContextVar[str] = ContextVar("user", default="")


def caller() -> str:
    """Return the user of the request that is being answered, nobody outside of one."""
    return _user.get()


@contextmanager
def answering(user_id: str) -> Generator[None]:
    """Answer a request of this user, who was authenticated."""
    token = _user.set(user_id)
    try:
        yield
    finally:
        _user.reset(token)


def everybody() -> str:
    """Return that all users are meant."""
    return ALL_USERS


def acting_for(engine: AsyncEngine, user: Callable[[], str]) -> AsyncEngine:
    """Return the engine, with the same connections, whose transactions are about this user."""
    return engine.execution_options(**{OPTION: user})


def name_users(engine: Engine) -> None:
    """Let each transaction of this engine, and of those made of it, begin with its user's name."""

    @listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        statement = _begin_for(connection.get_execution_options()[OPTION]())
        driver: psycopg.AsyncConnection = connection.connection.driver_connection  # type: ignore
        try:
            await_only(driver.wait(_sent(driver.pgconn, statement)))
        except BaseException as error:
            strip_values(error)
            connection.invalidate(error)
            raise


@lru_cache(10_000)
def _begin_for(user: str) -> bytes:
    return _BEGIN.format(sql.Literal(user)).as_bytes(None)


def _sent(pgconn: pq.abc.PGconn, statement: bytes) -> PQGen[None]:
    """Send two statements in one exchange, as the driver sends its own BEGIN: a cursor would take
    longer than all else that a transaction costs here.
    """
    pgconn.send_query(statement)
    results = yield from generators.execute(pgconn)
    if results[-1].status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(results[-1])
