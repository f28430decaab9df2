"""Generations of usage: which one is live, how one takes the other's place."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.database.engine import Database

from webhost_billing import statements
from webhost_billing.seals.decisions import NEVER
from webhost_billing.tables import generations, rebuild_checkpoints

CHUNK = 10_000
LIVE = sa.select(generations.c.live).where(generations.c.scope == "all").scalar_subquery()


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
    return await live(connection)


async def block_folds(connection: AsyncConnection) -> int:
    """Return the live generation; nothing is folded into it until this transaction ends."""
    await connection.execute(statements.HOLD_BACK_FOLDS)
    return await live(connection)


async def swap(connection: AsyncConnection, old: int, new: int, period: str) -> None:
    """Make `new` the live generation; all totals from this period on are due again."""
    await connection.execute(sa.update(generations).values(live=new, forgotten_through=NEVER))
    await connection.execute(
        statements.SWAPPED_ARE_DUE, {"live": old, "new": new, "period": period}
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
    async with database.transaction() as connection:
        await connection.execute(
            sa.delete(rebuild_checkpoints).where(rebuild_checkpoints.c.generation == generation)
        )


async def live(connection: AsyncConnection) -> int:
    """Return the live generation, as of now."""
    return int((await connection.execute(sa.select(LIVE))).scalar_one())
