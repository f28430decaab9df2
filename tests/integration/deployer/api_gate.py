"""A proxy between a deployer and the edge's API: open, closed, losing or delaying responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import httpx

from tests.integration.deployer.harness import Harness


class ApiGate:
    """A TCP proxy in front of the edge's API, which can be closed and opened.

    `lose` is the number of the answer that never arrives: the edge did what it was asked, and
    the connection ends before it could say so. While `flowing` is not set, answers are held back.
    """

    def __init__(self, target_port: int) -> None:
        self.open = True
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.held_back = 0
        self.lose = 0
        self.answers = 0
        self.refused = 0
        self._target_port = target_port
        self._server: asyncio.Server
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            self.refused += 1
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        for work in (self._ask(reader, up_writer), self._answer(up_reader, writer)):
            pump = asyncio.create_task(work)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _ask(self, reader: asyncio.StreamReader, edge: asyncio.StreamWriter) -> None:
        with closing(edge), suppress(OSError):
            while self.open and (data := await reader.read(65536)):
                edge.write(data)
                await edge.drain()

    async def _answer(self, edge: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            while self.open and (data := await edge.read(65536)):
                self.answers += data.startswith(b"HTTP/1.1")
                if self.answers == self.lose:
                    self.lose = 0
                    return
                self.held_back += not self.flowing.is_set()
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def gated(harness: Harness) -> AsyncIterator[ApiGate]:
    """Put a gate between the harness's deployers and the edge's API."""
    api = httpx.URL(harness.edge.api_base_url)
    assert api.port is not None
    gate = ApiGate(api.port)
    port = await gate.start()
    try:
        harness.env["CLOUDFLARE_API_BASE_URL"] = f"http://127.0.0.1:{port}/client/v4"
        yield gate
    finally:
        await gate.stop()
