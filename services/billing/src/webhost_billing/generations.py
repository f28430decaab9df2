"""Generations of usage: which one is live, how two differ, how one takes the other's place."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.buckets import readable_from
from webhost_contracts.periods import period_key
from webhost_contracts.rpc import Counters, Difference
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database

from webhost_billing import statements
from webhost_billing.queries import LIVE, counters_of
from webhost_billing.tables import generations

CHUNK = 10_000
MOST_SERIES = 1_000


async def begin(connection: AsyncConnection) -> int:
    """Return the number of a new generation; a number is never used twice."""
    newest = generations.c.newest
    found = await connection.execute(
        sa.update(generations).values(newest=newest + 1).returning(newest)
    )
    return int(found.scalar_one())


async def hold(connection: AsyncConnection) -> int:
    """Return the live generation, and keep it live until this transaction ends."""
    await connection.execute(statements.HOLD_GENERATION)
    return await _live(connection)


async def block_folds(connection: AsyncConnection) -> int:
    """Return the live generation; nothing is folded into it until this transaction ends."""
    await connection.execute(statements.HOLD_BACK_FOLDS)
    return await _live(connection)


async def differences(connection: AsyncConnection, live: int, new: int) -> list[Difference]:
    """Return the rows of usage that are not the same in both, in order; then the first MOST_SERIES
    of the series, as far back as they can be read.
    """
    found = await connection.execute(statements.DIFFERENCES, {"live": live, "new": new})
    usage = [
        Difference(
            user_id=row.user_id,
            period_key=row.period_key,
            runtime_provider=row.runtime_provider,
            live=_side(row, "live_"),
            rebuilt=_side(row, "new_"),
        )
        for row in found
    ]
    return usage + await _series_differences(connection, live, new)


async def not_rebuilt(connection: AsyncConnection, live: int, new: int) -> int:
    """Return how many invocations are known in the live generation alone."""
    found = await connection.execute(statements.NOT_REBUILT, {"live": live, "new": new})
    return int(found.scalar_one())


async def swap(connection: AsyncConnection, live: int, new: int, period: str) -> None:
    """Make `new` the live generation; all totals from this period on are due again."""
    await connection.execute(sa.update(generations).values(live=new))
    await connection.execute(
        statements.SWAPPED_ARE_DUE, {"live": live, "new": new, "period": period}
    )


async def dead(database: Database) -> list[int]:
    """Return the generations that are not live. Right only while no rebuild runs."""
    async with database.transaction() as connection:
        return list((await connection.execute(statements.DEAD_GENERATIONS)).scalars())


async def purge(database: Database, generation: int) -> None:
    """Remove the rows of a generation that is not live, in bounded chunks."""
    for statement in statements.REMOVE.values():
        removed = CHUNK
        while removed == CHUNK:
            async with database.transaction() as connection:
                result = await connection.execute(
                    statement, {"generation": generation, "most": CHUNK}
                )
                removed = result.rowcount


async def _series_differences(connection: AsyncConnection, live: int, new: int) -> list[Difference]:
    now = now_ms()
    found = await connection.execute(
        statements.SERIES_DIFFERENCES,
        {
            "live": live,
            "new": new,
            "minutes": readable_from("minute", now),
            "hours": readable_from("hour", now),
            "most": MOST_SERIES,
        },
    )
    return [
        Difference(
            user_id=row.user_id,
            period_key=period_key(row.start_ms),
            runtime_provider=row.runtime_provider,
            live=_side(row, "live_"),
            rebuilt=_side(row, "new_"),
            bucket=row.bucket,
            start_ms=row.start_ms,
            agent_id=row.agent_id,
            deployment_id=row.deployment_id,
        )
        for row in found
    ]


async def _live(connection: AsyncConnection) -> int:
    return int((await connection.execute(sa.select(LIVE))).scalar_one())


def _side(row: sa.Row[tuple[object, ...]], prefix: str) -> Counters | None:
    there = getattr(row, f"{prefix}requests") is not None
    return counters_of(row, prefix) if there else None
