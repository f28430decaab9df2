"""How a service ends: others take its place first, and what is under way is finished."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from webhost_kit.process.service import Service
from webhost_kit.tasks import cancel
from webhost_local.ports import free_port

from tests.support.deadline import eventually

DRAIN_S = 3.0
LONG_S = 30.0


@dataclass
class Ending:
    """A service that drains, with requests that end when `let_go` is set."""

    url: str
    ops_url: str
    http: aiohttp.ClientSession
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    worked: int = 0
    ended: asyncio.Task[None] = field(init=False)

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun, ", "more_body": True})
        if scope["path"] == "/long":
            self.begun.set()
            await self.let_go.wait()
        await send({"type": "http.response.body", "body": b"ended"})

    async def run(self) -> None:
        """A part that works until the end."""
        while True:
            self.worked += 1
            await asyncio.sleep(0.01)

    async def get(self, path: str) -> tuple[str, str]:
        async with self.http.get(f"{self.url}{path}") as answer:
            return await answer.text(), answer.headers.get("Connection", "")

    async def ready(self) -> bool:
        try:
            async with self.http.get(f"{self.ops_url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def is_open(self) -> bool:
        try:
            await self.get("/short")
        except aiohttp.ClientConnectorError:
            return False
        return True


@asynccontextmanager
async def running() -> AsyncIterator[Ending]:
    ports = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    service = Service("test", drain_s=DRAIN_S)
    async with aiohttp.ClientSession() as http:
        ending = Ending(*(f"http://{address}" for address in ports), http)
        service.serve(ending, ports[0], grace_s=LONG_S)
        service.serve_operations(ports[1])
        service.add("part", ending)
        ending.ended = asyncio.create_task(service.run())
        try:
            await eventually(ending.ready, "it to be ready")
            yield ending
        finally:
            ending.let_go.set()
            await cancel(ending.ended)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_first_it_is_unready_then_it_takes_no_more_and_then_it_ends() -> None:
    async with running() as ending:
        assert await ending.get("/short") == ("begun, ended", "")
        long = asyncio.create_task(ending.get("/long"))
        await ending.begun.wait()

        terminate()

        async def unready() -> bool:
            return not await ending.ready()

        await eventually(unready, "it to be unready")
        # Still answered, but on a connection that nobody finds closed afterwards.
        assert await ending.get("/short") == ("begun, ended", "close")

        async def closed() -> bool:
            return not await ending.is_open()

        await eventually(closed, "it to take no more", seconds=DRAIN_S + 10)
        worked = ending.worked
        await asyncio.sleep(0.3)
        assert not long.done()
        assert not ending.ended.done()
        assert ending.worked > worked, "the parts must work until the last request has ended"
        ending.let_go.set()
        assert (await long)[0] == "begun, ended"
        async with asyncio.timeout(5):
            await ending.ended


async def test_at_a_second_signal_it_waits_for_nobody() -> None:
    async with running() as ending:
        long = asyncio.create_task(ending.get("/long"))
        await ending.begun.wait()
        terminate()
        await asyncio.sleep(0.1)
        assert not ending.ended.done()
        terminate()
        async with asyncio.timeout(5):
            await ending.ended
            with pytest.raises(aiohttp.ClientError):
                await long
