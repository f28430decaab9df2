"""Prepared statements, straight on libpq: for the few that a hot path executes.

psycopg connects and converts values; what it does besides for each statement (rewriting the query,
deciding whether to prepare it, waiting with new objects) took more time than these statements'
parameters and rows do. Source: libpq, "Asynchronous Command Processing".
"""

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import TupleRow

_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")


class PreparedStatements:
    """Those of one connection, which nobody else may use meanwhile.

    After an error other than psycopg's, a cancellation too, the connection cannot be used any more.
    """

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: dict[str, bytes] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self, query: str, parameters: Mapping[str, Any]) -> list[TupleRow]:
        """Return the rows. Parameters are `%(name)s`, whose types the server infers.

        Raises psycopg.Error.
        """
        text, names = _numbered(query)
        name = self._prepared.get(query)
        if name is None:
            name = f"webhost_{len(self._prepared)}".encode()
            self._pgconn.send_prepare(name, text)
            await self._result()
            self._prepared[query] = name
        values = [parameters[key] for key in names]
        formats = [PyFormat.TEXT] * len(values)
        self._pgconn.send_query_prepared(name, self._transformer.dump_sequence(values, formats))
        result = await self._result()
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    async def _result(self) -> pq.abc.PGresult:
        while self._pgconn.flush():
            await self._wait(sending=True)
        found: pq.abc.PGresult | None = None
        while True:
            while self._pgconn.is_busy():
                await self._wait()
            result = self._pgconn.get_result()
            if result is None:
                break
            found = result
        if found is None:
            raise psycopg.OperationalError("the server sent no result")
        if found.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(found)
        return found

    async def _wait(self, *, sending: bool = False) -> None:
        socket = self._pgconn.socket
        woken = self._loop.create_future()
        # Each time anew: of a connection that was reset, uvloop says so once and then nothing,
        # while libpq may first have read what the server said before.
        self._loop.add_reader(socket, _wake, woken)
        if sending:
            self._loop.add_writer(socket, _wake, woken)
        try:
            await woken
        finally:
            self._loop.remove_reader(socket)
            if sending:
                self._loop.remove_writer(socket)
        self._pgconn.consume_input()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


@lru_cache
def _numbered(query: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the query with numbered parameters, and their names in that order."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        if found[1] is None:
            return "%"
        return f"${names.setdefault(found[1], len(names) + 1)}"

    text = _PARAMETER.sub(number, query)
    return text.encode(), tuple(names)
