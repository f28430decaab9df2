"""A service's tables and connections, without a service."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL

from tests.support.harness import Harness, in_background, running_harness

__all__ = ["in_background"]


@pytest.fixture
async def harness(database_url: str, nats_account: str) -> AsyncIterator[Harness]:
    """A harness with the event tables, and a table for a projection."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(EVENT_TABLES_SQL.encode())
        connection.execute("CREATE TABLE names (id text PRIMARY KEY, name text, seen int)")
    async with running_harness(database_url, nats_account) as harness:
        yield harness
