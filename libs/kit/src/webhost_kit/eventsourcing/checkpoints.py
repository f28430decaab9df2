"""Where projections stand: a row beside the rows that they fold."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.bus.reader import Checkpoint

CHECKPOINTS_SQL = """
CREATE TABLE checkpoints (
    name text PRIMARY KEY,
    stream text NOT NULL,
    stream_created_at text NOT NULL,
    sequence bigint NOT NULL,
    message_id text
);
"""
"""What the first migration of a service that projects runs."""


def checkpoint_table(metadata: sa.MetaData) -> None:
    """Add the table of checkpoints to a service's metadata."""
    sa.Table(
        "checkpoints",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("stream_created_at", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Text),
    )


async def read_checkpoint(connection: AsyncConnection, name: str) -> Checkpoint | None:
    """Return where the projection of this name stands, None before its first batch."""
    result = await connection.execute(_READ, {"name": name})
    row = result.one_or_none()
    return None if row is None else Checkpoint(row[0], row[1], row[2])


async def save_checkpoint(
    connection: AsyncConnection, name: str, stream: str, checkpoint: Checkpoint
) -> None:
    """Move the projection of this name to this checkpoint, in the transaction of its rows."""
    await connection.execute(
        _SAVE,
        {
            "name": name,
            "stream": stream,
            "created": checkpoint.stream_created_at,
            "sequence": checkpoint.sequence,
            "message_id": checkpoint.message_id,
        },
    )


_READ = sa.text(
    "SELECT stream_created_at, sequence, message_id FROM checkpoints WHERE name = :name"
)
_SAVE = sa.text(
    """
    INSERT INTO checkpoints (name, stream, stream_created_at, sequence, message_id)
    VALUES (:name, :stream, :created, :sequence, :message_id)
    ON CONFLICT (name) DO UPDATE SET
        stream = excluded.stream,
        stream_created_at = excluded.stream_created_at,
        sequence = excluded.sequence,
        message_id = excluded.message_id
    """
)
