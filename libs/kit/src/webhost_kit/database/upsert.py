"""Rows that are inserted, or take the place of those with the same key."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def upsert(
    connection: AsyncConnection, table: sa.Table, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write whole rows, by the table's primary key, in its order: so no two wait for each other."""
    key = [column.name for column in table.primary_key]
    values = sorted(rows, key=lambda row: [row[name] for name in key])
    if not values:
        return
    statement = insert(table)
    changes = {c.name: statement.excluded[c.name] for c in table.c if not c.primary_key}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=key, set_=changes), values
    )
