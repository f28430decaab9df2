"""A service's tables and connections, without a service."""

from collections.abc import AsyncIterator

import psycopg
import pytest
import sqlalchemy as sa
from webhost_kit.database.engine import sqlalchemy_url
from webhost_kit.eventsourcing.store import event_tables

from tests.support.harness import Harness, running


@pytest.fixture
async def harness(database_url: str, nats_account: str) -> AsyncIterator[Harness]:
    """A harness with the event tables, and a table for a projection."""
    metadata = sa.MetaData()
    event_tables(metadata)
    metadata.create_all(engine := sa.create_engine(sqlalchemy_url(database_url)))
    engine.dispose()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE names (id text PRIMARY KEY, name text, seen int)")
    async with running(Harness, database_url, nats_account) as harness:
        yield harness
