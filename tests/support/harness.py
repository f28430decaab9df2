"""What every service test stands on: one database, one bus, what is stated and what comes of it.

A service's own harness has a `Harness` and adds the service's process and its calls. `given`
states facts as their owners would; `stated` and `until_stated` look at what a service stated.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import text
from webhost_contracts import subjects
from webhost_contracts.events import Envelope
from webhost_contracts.events.base import Event
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.database.engine import Database

from tests.support import facts
from tests.support.deadline import eventually
from tests.support.service import ServiceProcess, service

Stated = tuple[Envelope, Event]


class Harness:
    """A database and a bus of a test's own, and what can be seen on both."""

    def __init__(self, dsn: str, nats_url: str, database: Database, bus: Bus) -> None:
        self.dsn = dsn
        self.nats_url = nats_url
        self.database = database
        self.bus = bus

    def service(self, module: str, **env: str) -> AbstractAsyncContextManager[ServiceProcess]:
        """This service's process on our database and bus, for a block."""
        return service(module, self.dsn, self.nats_url, **env)

    async def given(self, subject: str, *envelopes: Envelope) -> None:
        """State these facts in this order; return when all are stored."""
        for envelope in envelopes:
            await facts.publish(self.bus, subject, envelope)

    async def stated(
        self, types: Mapping[str, type[Event]], pattern: str = subjects.ALL_EVENTS
    ) -> list[Stated]:
        """Everything of these types on EVENTS, in order."""
        return await facts.on_stream(self.bus, subjects.EVENTS, pattern, types)

    async def until_stated(
        self,
        types: Mapping[str, type[Event]],
        holds: Callable[[Sequence[Stated]], bool],
        what: str,
        *,
        seconds: float = 20,
    ) -> list[Stated]:
        """Return what was stated of these types, once it is as it has to be."""
        found: list[Stated] = []

        async def as_wanted() -> bool:
            found[:] = await self.stated(types)
            return holds(found)

        await eventually(as_wanted, what, seconds=seconds)
        return found

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


@asynccontextmanager
async def running_harness(dsn: str, nats_url: str) -> AsyncIterator[Harness]:
    """A harness on this database and bus, connected until the block ends."""
    database = Database(dsn)
    bus = await connect(nats_url, "test")
    try:
        yield Harness(dsn, nats_url, database, bus)
    finally:
        await bus.close()
        await database.close()


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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
