"""Where projections stand: a row beside the rows that they fold."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.reader import Position

POSITIONS_SQL = """
CREATE TABLE positions (
    name text PRIMARY KEY,
    stream text NOT NULL,
    stream_created_at text NOT NULL,
    sequence bigint NOT NULL,
    message_id text
);
"""
"""What the first migration of a service that projects runs."""


def position_table(metadata: sa.MetaData) -> None:
    """Add the table of positions to a service's metadata."""
    sa.Table(
        "positions",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("stream_created_at", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Text),
    )


async def read_position(connection: AsyncConnection, name: str) -> Position | None:
    """Return where the projection of this name stands, None before its first batch."""
    result = await connection.execute(_READ, {"name": name})
    row = result.one_or_none()
    return None if row is None else Position(row[0], row[1], row[2])


async def save_position(
    connection: AsyncConnection, name: str, stream: str, position: Position
) -> None:
    """Move the projection of this name to this position, in the transaction of its rows."""
    await connection.execute(
        _SAVE,
        {
            "name": name,
            "stream": stream,
            "created": position.stream_created_at,
            "sequence": position.sequence,
            "message_id": position.message_id,
        },
    )


_READ = sa.text("SELECT stream_created_at, sequence, message_id FROM positions WHERE name = :name")
_SAVE = sa.text(
    """
    INSERT INTO positions (name, stream, stream_created_at, sequence, message_id)
    VALUES (:name, :stream, :created, :sequence, :message_id)
    ON CONFLICT (name) DO UPDATE SET
        stream = excluded.stream,
        stream_created_at = excluded.stream_created_at,
        sequence = excluded.sequence,
        message_id = excluded.message_id
    """
)
