"""A watcher of an agent's events: the bytes of the response as they come, cut wherever wanted."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.integration.api.harness import User

PATIENCE_S = 20


@dataclass(frozen=True)
class Seen:
    """One event, complete with its blank line. Of its id, `id` is the number alone."""

    name: str
    data: dict[str, Any]
    id: int | None = None
    whole_id: str | None = None


def events_in(stream: bytes) -> list[Seen]:
    """The complete events of these bytes; what follows the last blank line is none."""
    found: list[Seen] = []
    for block in stream.decode("utf-8", "ignore").split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            whole_id = fields.get("id")
            number = None if whole_id is None else int(whole_id.partition("-")[0])
            found.append(Seen(fields["event"], json.loads(fields["data"]), number, whole_id))
    return found


@dataclass
class Watcher:
    """A response that is being read."""

    response: httpx.Response
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def __post_init__(self) -> None:
        self._chunks = self.response.aiter_raw()

    @property
    def seen(self) -> list[Seen]:
        return events_in(bytes(self.received))

    @property
    def ids(self) -> list[int]:
        return [one.id for one in self.seen if one.id is not None]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.seen]

    async def more(self) -> None:
        try:
            self.received += await anext(self._chunks)
        except (StopAsyncIteration, httpx.TransportError):
            self.ended = True

    async def bytes(self, count: int) -> None:
        """Return when this many bytes have come, and forget those behind them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < count and not self.ended:
                await self.more()
        del self.received[count:]

    async def until(self, name: str, count: int = 1) -> Seen:
        """Return the event of this name that is the first, or the second, or …, once it came."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [one for one in self.seen if one.name == name]) < count:
                assert not self.ended, self.names
                await self.more()
        return found[count - 1]

    async def until_id(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while number not in self.ids:
                assert not self.ended, self.names
                await self.more()

    async def until_end(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.ended:
                await self.more()


@asynccontextmanager
async def watching(
    user: User, agent_id: str, after: int | str | None = None, *, url: str = ""
) -> AsyncGenerator[Watcher]:
    """Watch an agent's events behind this id, or from now on; cut at the end of the block."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    path = f"{url}/v1/agents/{agent_id}/events"
    async with user.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Watcher(response)
