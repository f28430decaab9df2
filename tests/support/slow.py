"""Clients that are slow: they open a connection, send what they are told, and read nothing."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import asynccontextmanager, suppress

import psutil
from webhost_kit.tasks import cancel

RECEIVE_BYTES = 4096
"""What the kernel keeps for one of them, about."""


class SlowClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def rest(self) -> bytes:
        """Read to the end, which a reset is too."""
        self.writer.transport.resume_reading()
        parts: list[bytes] = []
        with suppress(ConnectionError):
            while part := await self.reader.read(65536):
                parts.append(part)
        return b"".join(parts)

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def _connect(port: int, sent: bytes) -> SlowClient:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=RECEIVE_BYTES)
    writer.transport.pause_reading()
    writer.write(sent)
    return SlowClient(reader, writer)


@asynccontextmanager
async def slow_clients(port: int, sent: Iterable[bytes]) -> AsyncGenerator[list[SlowClient]]:
    """One client for each of these, until the block ends."""
    clients: list[SlowClient] = []
    try:
        clients += [await _connect(port, each) for each in sent]
        yield clients
    finally:
        for client in clients:
            await client.close()


async def first_answer(clients: Collection[SlowClient]) -> bytes:
    """The first line of the answer to whichever of them is answered first."""
    for client in clients:
        client.writer.transport.resume_reading()
    lines = [asyncio.create_task(client.reader.readline()) for client in clients]
    try:
        return await next(asyncio.as_completed(lines, timeout=10))
    finally:
        await cancel(*lines)


def resident_mb(pid: int) -> float:
    """A process's resident memory in MB."""
    return psutil.Process(pid).memory_info().rss / 1e6
