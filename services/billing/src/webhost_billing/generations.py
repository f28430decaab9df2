"""Generations of usage: which one is live, how two differ, how one takes the other's place."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.rpc import Counters, Difference
from webhost_kit.database.engine import Database

from webhost_billing.queries import counters_of
from webhost_billing.tables import billing_usage, reports, usage_events

CHUNK = 10_000
FOLDED = (billing_usage, usage_events, reports)


async def begin(connection: AsyncConnection) -> int:
    """Return the number of a new generation; no other was or will be given the same."""
    return int((await connection.execute(_BEGIN)).scalar_one())


async def lock(connection: AsyncConnection) -> int:
    """Return the live generation; nothing is folded into it until this transaction ends."""
    return int((await connection.execute(_LOCK)).scalar_one())


async def differences(connection: AsyncConnection, live: int, new: int) -> list[Difference]:
    """Return the rows of usage that are not the same in both, in order."""
    found = await connection.execute(_DIFFERENCES, {"live": live, "new": new})
    return [
        Difference(
            user_id=row.user_id,
            period_key=row.period_key,
            runtime_provider=row.runtime_provider,
            live=_side(row, "live_"),
            rebuilt=_side(row, "new_"),
        )
        for row in found
    ]


async def swap(connection: AsyncConnection, live: int, new: int, period: str, at: int) -> None:
    """Make `new` the live one; all totals from this period on are due again."""
    await connection.execute(_SWAP, {"new": new})
    await connection.execute(_DUE, {"live": live, "new": new, "period": period, "at": at})


async def dead(database: Database) -> list[int]:
    """Return the generations that are not live. Right only while nobody rebuilds."""
    async with database.transaction() as connection:
        return [int(row[0]) for row in await connection.execute(_DEAD)]


async def purge(database: Database, generation: int) -> None:
    """Remove the rows of a generation that nobody reads, in bounded chunks."""
    for table in FOLDED:
        name = table.name
        statement = sa.text(
            f"DELETE FROM {name} WHERE ctid = ANY(ARRAY("  # noqa: S608 - our own table's name
            f"SELECT ctid FROM {name} WHERE generation = :generation LIMIT :chunk"
            " FOR UPDATE SKIP LOCKED))"
        )
        removed = CHUNK
        while removed == CHUNK:
            async with database.transaction() as connection:
                result = await connection.execute(
                    statement, {"generation": generation, "chunk": CHUNK}
                )
                removed = result.rowcount


def _side(row: sa.Row[tuple[object, ...]], prefix: str) -> Counters | None:
    there = getattr(row, f"{prefix}requests") is not None
    return counters_of(row, prefix) if there else None


_BEGIN = sa.text("UPDATE generations SET newest = newest + 1 WHERE scope = 'all' RETURNING newest")
_LOCK = sa.text("SELECT live FROM generations WHERE scope = 'all' FOR UPDATE")
_SWAP = sa.text("UPDATE generations SET live = :new WHERE scope = 'all'")
_DEAD = sa.text(
    """
    SELECT DISTINCT generation FROM (
        SELECT generation FROM reports
        UNION SELECT generation FROM usage_events
        UNION SELECT generation FROM billing_usage
    ) found
    WHERE generation <> (SELECT live FROM generations WHERE scope = 'all')
    """
)
_DUE = sa.text(
    """
    INSERT INTO totals_due (user_id, period_key, generation, sequence)
    SELECT DISTINCT user_id, period_key, CAST(:new AS integer), CAST(:at AS bigint)
    FROM billing_usage WHERE generation IN (:live, :new) AND period_key >= :period
    ON CONFLICT (user_id, period_key) DO UPDATE SET
        generation = excluded.generation, sequence = excluded.sequence
    """
)
_COUNTERS = Counters.__struct_fields__
_SIDES = ", ".join(
    f"{side}.{name} AS {side}_{name}" for side in ("live", "new") for name in _COUNTERS
)
_DIFFERENCES = sa.text(
    f"""
    WITH live AS (SELECT * FROM billing_usage WHERE generation = :live),
        new AS (SELECT * FROM billing_usage WHERE generation = :new)
    SELECT user_id, period_key, runtime_provider, {_SIDES}
    FROM live FULL JOIN new USING (user_id, period_key, runtime_provider)
    WHERE to_jsonb(live) - 'generation' IS DISTINCT FROM to_jsonb(new) - 'generation'
    ORDER BY user_id, period_key, runtime_provider
    """  # noqa: S608 - our own columns' names
)
