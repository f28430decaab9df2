"""What every service test is based on: one database, one bus, the service's processes.

A service's own harness is a `Harness` with that service's calls: `given` the facts of others,
when the service is called or sent a command, then what it states and what its database holds.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from sqlalchemy import text
from webhost_contracts.events.base import Event
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.database.engine import Database
from webhost_kit.tasks import cancel

from tests.support import facts
from tests.support.deadline import eventually
from tests.support.service import ServiceProcess, environment


@dataclass(kw_only=True)
class Harness:
    """A database and a bus of a test's own, what can be seen on both, and who works on them."""

    dsn: str
    nats_url: str
    database: Database
    bus: Bus
    http: aiohttp.ClientSession
    processes: list[ServiceProcess] = field(default_factory=list)

    def process(self, module: str, **env: str) -> ServiceProcess:
        """A process of this service, not started yet; it ends with the harness at the latest."""
        process = ServiceProcess(module, environment(self.dsn, self.nats_url, **env), self.http)
        self.processes.append(process)
        return process

    async def close(self) -> None:
        """Kill every process; close what is open."""
        for process in self.processes:
            await process.kill()
        await self.bus.close()
        await self.database.close()

    async def given(
        self, user_id: str, aggregate_id: str, event: Event, *, version: int = 1
    ) -> None:
        """State a fact in the name of its owner; return when it is stored."""
        stated = facts.envelope(user_id, aggregate_id, event, version=version)
        await facts.publish(self.bus, event.published_on(user_id, aggregate_id), stated)

    async def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        async with self.database.transaction() as connection:
            found = await connection.execute(text(query), parameters)
            return [dict(row) for row in found.mappings()]

    async def scalar(self, query: str, **parameters: Any) -> Any:
        """The first column of the first row; None where there is none."""
        async with self.database.transaction() as connection:
            return (await connection.execute(text(query), parameters)).scalar()

    async def execute(self, statement: str, **parameters: Any) -> int:
        """Change the database; return how many rows that concerned."""
        async with self.database.transaction() as connection:
            return (await connection.execute(text(statement), parameters)).rowcount

    async def until_scalar(
        self, query: str, expected: object, what: str, *, seconds: float = 20
    ) -> None:
        """Return when the query gives what is expected."""

        async def holds() -> bool:
            return await self.scalar(query) == expected

        await eventually(holds, what, seconds=seconds)


H = TypeVar("H", bound=Harness)


@asynccontextmanager
async def running(kind: type[H], dsn: str, nats_url: str, **fields: Any) -> AsyncGenerator[H]:
    """A harness of this kind on this database and bus, until the block ends."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        database, bus = Database(dsn), await connect(nats_url, "test")
        harness = kind(dsn=dsn, nats_url=nats_url, database=database, bus=bus, http=http, **fields)
        try:
            yield harness
        finally:
            await harness.close()


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run these until the block ends; fail when one of them fails."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await cancel(*tasks)
