"""A service's tables and connections, without a service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL


@dataclass
class House:
    """One database with the event tables, one bus."""

    dsn: str
    nats_url: str
    database: Database
    bus: Bus

    async def scalar(self, query: str) -> Any:
        async with self.database.transaction() as connection:
            return (await connection.execute(text(query))).scalar()


@pytest.fixture
async def house(database_url: str, nats_account: str) -> AsyncIterator[House]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(EVENT_TABLES_SQL.encode())
        connection.execute("CREATE TABLE names (id text PRIMARY KEY, name text, seen int)")
    database = Database(database_url)
    bus = await connect(nats_account, "test")
    yield House(database_url, nats_account, database, bus)
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
