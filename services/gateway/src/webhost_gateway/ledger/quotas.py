"""Raises the quotas of a restored database to what billing has counted.

Raw SQL: one statement carries a thousand users, and touches only those that are too low.
"""

from collections.abc import Callable, Sequence
from itertools import islice

from sqlalchemy import text
from webhost_contracts.periods import period_key, previous_period
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

BATCH = 1_000

Counted = Callable[[str], Sequence[tuple[str, int]] | None]
"""The users of a period and their requests, None while they are not known."""


async def raise_to_counted(database: Database, counted: Counted) -> None:
    """Let no quota of this and the previous period be below what was counted.

    Raises Unavailable when what was counted is not known, or the database is away.
    """
    current = period_key(now_ms())
    for period in (previous_period(current), current):
        users = counted(period)
        if users is None:
            raise Unavailable("The totals are not loaded.")
        # Sorted, as in every statement that locks several quotas.
        ordered = iter(sorted(users))
        while batch := list(islice(ordered, BATCH)):
            user_ids, requests = zip(*batch, strict=True)
            async with database.transaction() as connection:
                await connection.execute(
                    RAISE,
                    {"users": list(user_ids), "requests": list(requests), "period": period},
                )


# Those that are high enough are not touched.
RAISE = text(
    """
    INSERT INTO quotas (user_id, period_key, requests)
    SELECT c.user_id, :period, c.requests
    FROM unnest(CAST(:users AS text[]), CAST(:requests AS bigint[])) AS c(user_id, requests)
    LEFT JOIN quotas q ON q.user_id = c.user_id AND q.period_key = :period
    WHERE q.requests IS NULL OR q.requests < c.requests
    ORDER BY c.user_id
    ON CONFLICT (user_id, period_key)
    DO UPDATE SET requests = greatest(quotas.requests, excluded.requests)
    """
)
