"""Rebuilds under way: which generation is of which, and how far each partition of it is.

Guarantees: what is written of a partition is committed with the rows that it stands for, so a
rebuild that was killed goes on from there.
"""

import hashlib
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.clock import now_ms

from webhost_billing import generations
from webhost_billing.charging import Rules
from webhost_billing.rebuild.scope import Scope
from webhost_billing.tables import rebuild_checkpoints, rebuilds

FOLD_VERSION = 1
"""Raised with every change of what a fold comes to: rows of two versions are not mixed."""
KEPT_MS = 7 * 24 * 3_600_000
"""A rebuild that nobody resumed in this time is removed."""


async def resume_or_begin(
    connection: AsyncConnection,
    scope: Scope,
    rules: Rules,
    stream_created_at: str,
    *,
    dry_run: bool,
) -> tuple[int, int]:
    """Return the generation of this rebuild, and how many messages are in it already.

    It goes on with one of the same scope, rules and stream. Unless this is a dry run, all others
    are given up.
    """
    fingerprint = _fingerprint(rules)
    mine = sa.and_(
        rebuilds.c.user_id.is_not_distinct_from(scope.user_id),
        rebuilds.c.period_key.is_not_distinct_from(scope.period_key),
        rebuilds.c.rules == fingerprint,
        rebuilds.c.stream_created_at == stream_created_at,
    )
    if not dry_run:
        await connection.execute(sa.delete(rebuilds).where(~mine))
    generation = await connection.scalar(sa.select(sa.func.max(rebuilds.c.generation)).where(mine))
    if generation is not None:
        count = sa.select(sa.func.coalesce(sa.func.sum(rebuild_checkpoints.c.messages), 0))
        found = await connection.scalar(count.where(rebuild_checkpoints.c.generation == generation))
        return generation, int(found or 0)
    generation = await generations.begin(connection)
    await connection.execute(
        sa.insert(rebuilds).values(
            generation=generation,
            user_id=scope.user_id,
            period_key=scope.period_key,
            rules=fingerprint,
            stream_created_at=stream_created_at,
            begun_at_ms=now_ms(),
        )
    )
    return generation, 0


async def give_up(connection: AsyncConnection, generation: int) -> None:
    """Let nobody go on with this rebuild."""
    await connection.execute(sa.delete(rebuilds).where(rebuilds.c.generation == generation))


async def give_up_all(connection: AsyncConnection) -> None:
    """Let nobody go on with any rebuild."""
    await connection.execute(sa.delete(rebuilds))


async def give_up_old(connection: AsyncConnection) -> None:
    """Let nobody go on with a rebuild that was left alone for long."""
    old = rebuilds.c.begun_at_ms < now_ms() - KEPT_MS
    await connection.execute(sa.delete(rebuilds).where(old))


async def read(
    connection: AsyncConnection, generation: int, partitions: Iterable[int]
) -> tuple[Scope, dict[int, int]]:
    """Return what a generation is of, and up to where each of these partitions is folded."""
    query = sa.select(rebuilds.c.user_id, rebuilds.c.period_key)
    row = (await connection.execute(query.where(rebuilds.c.generation == generation))).one()
    at = dict.fromkeys(partitions, 0)
    found = await connection.execute(
        sa.select(rebuild_checkpoints.c.partition, rebuild_checkpoints.c.sequence).where(
            rebuild_checkpoints.c.generation == generation
        )
    )
    at |= {one.partition: one.sequence for one in found if one.partition in at}
    return Scope(row.user_id, row.period_key), at


async def save(
    connection: AsyncConnection, generation: int, folded: dict[int, tuple[int, int]]
) -> None:
    """Write by partition its new sequence, and how many more messages are folded."""
    statement = insert(rebuild_checkpoints)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["generation", "partition"],
            set_={
                "sequence": statement.excluded.sequence,
                "messages": rebuild_checkpoints.c.messages + statement.excluded.messages,
            },
        ),
        [
            {
                "generation": generation,
                "partition": partition,
                "sequence": sequence,
                "messages": messages,
            }
            for partition, (sequence, messages) in folded.items()
        ],
    )


def _fingerprint(rules: Rules) -> str:
    """Return what two rebuilds share whose rows may stand side by side."""
    told = (
        FOLD_VERSION,
        rules.longest_call_ms,
        rules.min_compute_percent,
        rules.prices.entries,
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()
