"""Kept connections to Workers' hosts, and how new ones are made.

Guarantees: a connection is one exchange's at a time. What is kept was whole when its last exchange
ended, and is closed KEPT_S later; the one used last is used next. Names are looked up once for all
who wait, and remembered for RESOLVED_S; of several addresses, IPv6 and IPv4, the first that answers
is used (RFC 8305). Certificates are verified against the system's authorities, for the host's name.
"""

import asyncio
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any

import aiohappyeyeballs
from cachetools import TTLCache
from webhost_kit.process.metrics import ReadGauge

from webhost_gateway.upstream.connection import Connection

KEPT_S = 15.0
CONNECT_TIMEOUT_S = 10.0
RESOLVED_S = 10.0
MOST_RESOLVED = 10_000
NEXT_ADDRESS_S = 0.25
RECEIVE_BYTES = 32 * 1024
"""What the system may receive ahead of us on a connection, and so the most of one read."""

_connections = ReadGauge(
    "webhost_gateway_worker_connections",
    "Connections to Workers: `in_use`, or `kept` for the next call",
    ["state"],
)


class NotConnected(Exception):
    """No connection could be made; the message says why."""

    def __init__(self, reason: str, *, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect to; `tls` with a certificate for this host."""

    host: str
    port: int
    tls: bool


class Pool:
    """The connections of one process."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or ssl.create_default_context()
        self._kept: dict[Origin, deque[tuple[float, Connection]]] = {}
        self._used: dict[Connection, Origin] = {}
        self._resolved: TTLCache[Origin, asyncio.Task[Any]] = TTLCache(MOST_RESOLVED, RESOLVED_S)
        self._cleaning: asyncio.TimerHandle | None = None
        _connections.read(lambda: len(self._used), "in_use")
        _connections.read(lambda: sum(map(len, self._kept.values())), "kept")

    async def acquire(self, origin: Origin) -> Connection:
        """Return a connection for one exchange; give it back. Raises NotConnected."""
        connection = self._kept_one(origin)
        if connection is None:
            connection = await self._connect(origin)
        self._used[connection] = origin
        return connection

    def release(self, connection: Connection) -> None:
        """Keep the connection if it may be used again."""
        origin = self._used.pop(connection)
        if not connection.rest():
            return
        loop = asyncio.get_running_loop()
        self._kept.setdefault(origin, deque()).append((loop.time(), connection))
        if self._cleaning is None:
            self._cleaning = loop.call_later(KEPT_S, self._clean)

    def close(self) -> None:
        """Close every connection, those in use too."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        for kept in self._kept.values():
            for _, connection in kept:
                connection.abort()
        self._kept.clear()
        for connection in self._used:
            connection.abort()

    def _kept_one(self, origin: Origin) -> Connection | None:
        kept = self._kept.get(origin)
        before = asyncio.get_running_loop().time() - KEPT_S
        while kept:
            since, connection = kept.pop()
            if connection.usable and since > before:
                return connection
            connection.abort()
        return None

    def _clean(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time() - KEPT_S
        for origin, kept in list(self._kept.items()):
            while kept and (kept[0][0] <= before or not kept[0][1].usable):
                kept.popleft()[1].abort()
            if not kept:
                del self._kept[origin]
        self._cleaning = loop.call_later(KEPT_S / 2, self._clean) if self._kept else None

    async def _connect(self, origin: Origin) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connected(origin)
        except TimeoutError as error:
            raise NotConnected("it took too long", timed_out=True) from error
        except (OSError, RuntimeError, ValueError) as error:
            # RuntimeError is aiohappyeyeballs', ValueError says that no host can have this name.
            raise NotConnected(type(error).__name__, timed_out=False) from error

    async def _connected(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._addresses(origin)
        made = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, socket_factory=_socket
        )
        try:
            _, connection = await loop.create_connection(
                Connection,
                sock=made,
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            made.close()
            raise
        return connection

    async def _addresses(self, origin: Origin) -> list[Any]:
        looking = self._resolved.get(origin)
        if looking is None or (looking.done() and looking.exception() is not None):
            loop = asyncio.get_running_loop()
            looking = asyncio.ensure_future(
                loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            )
            looking.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._resolved[origin] = looking
        return await asyncio.shield(looking)


def _socket(address: Any) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
