"""The outbox: messages to be published, written in the transaction of their facts."""

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB

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
