"""Projections' checkpoints: one row each, beside the rows that the projection folds.

A batch is folded in the transaction that locks the checkpoint, finds it where the batch began, and
moves it past the batch: of two projectors that overlap for a moment, one rolls back. An operator
who resets a checkpoint raises its epoch, so that a fold under way rolls back as well.
"""

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.errors import CheckpointMoved
from webhost_kit.eventsourcing.parked import parked_table


def projection_tables(metadata: sa.MetaData) -> None:
    """Add what every service that projects needs to its metadata: checkpoints, parked events."""
    _checkpoint_table(metadata)
    parked_table(metadata)


def _checkpoint_table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "checkpoints",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("stream_created_at", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    )


_table = _checkpoint_table(sa.MetaData())


async def read_checkpoint(
    connection: AsyncConnection, name: str, *, lock: bool = False
) -> Checkpoint | None:
    """Return the checkpoint of this projection, None before its first batch.

    With `lock`, it cannot be moved by others until the transaction ends.
    """
    query = sa.select(
        _table.c.stream_created_at, _table.c.sequence, _table.c.message_id, _table.c.epoch
    ).where(_table.c.name == name)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else Checkpoint(*row)


async def require_checkpoint(
    connection: AsyncConnection, name: str, expected: Checkpoint | None
) -> None:
    """Lock the checkpoint until the transaction ends.

    Raises CheckpointMoved when it is not `expected` any more.
    """
    found = await read_checkpoint(connection, name, lock=True)
    if found is None:
        # Two that begin at once must find one row to lock.
        start = {"name": name, "stream_created_at": "", "sequence": 0}
        await connection.execute(insert(_table).values(start).on_conflict_do_nothing())
        found = await read_checkpoint(connection, name, lock=True)
    there = (found.sequence, found.epoch) if found else (0, 0)
    if there != ((expected.sequence, expected.epoch) if expected else (0, 0)):
        raise CheckpointMoved(name)


async def save_checkpoint(connection: AsyncConnection, name: str, checkpoint: Checkpoint) -> None:
    """Move the checkpoint, in the transaction that required it and of the rows it stands for."""
    values = {
        "name": name,
        "stream_created_at": checkpoint.stream_created_at,
        "sequence": checkpoint.sequence,
        "message_id": checkpoint.message_id,
        "epoch": checkpoint.epoch,
    }
    statement = insert(_table).values(values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={key: statement.excluded[key] for key in values}
        )
    )


async def reset_checkpoint(connection: AsyncConnection, name: str) -> None:
    """Restart the projection of this name from the beginning of its stream."""
    found = await read_checkpoint(connection, name, lock=True)
    start = Checkpoint("", 0, None, 0) if found is None else found
    await save_checkpoint(
        connection,
        name,
        replace(start, stream_created_at="", sequence=0, message_id=None, epoch=start.epoch + 1),
    )
