"""The outbox: messages to be published, written in the transaction of their facts."""

import asyncio
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB

from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

POLL_INTERVAL_S = 0.05

_TRIGGER_SQL = """
CREATE FUNCTION wake_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '.outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_written AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION wake_relay();
"""


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Add the outbox to a service's metadata; its trigger wakes the relay."""
    table = sa.Table(
        "outbox",
        metadata,
        sa.Column("serial", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("ordering_key", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    event.listen(table, "after_create", sa.DDL(_TRIGGER_SQL))
    return table


outbox = outbox_table(sa.MetaData())


async def is_published(database: Database, ordering_key: str, *, within_s: float) -> bool:
    """Say whether nothing of this key waits any more, at the latest after so many seconds."""
    waits = sa.select(sa.exists().where(outbox.c.ordering_key == ordering_key))
    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(within_s):
            while True:
                async with database.transaction() as connection:
                    if not await connection.scalar(waits):
                        return True
                await asyncio.sleep(POLL_INTERVAL_S)
    return False
