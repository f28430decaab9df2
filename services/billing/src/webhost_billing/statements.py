"""The raw SQL of the fold and of the totals, and what rebuilds share with them, by name.

They handle whole batches, or compare and remove whole generations. Columns are declared in
`tables`; lists of them are generated from there, and so is the order of what is passed for them.
"""

import sqlalchemy as sa
from webhost_kit.database.rows import Rows

from webhost_billing.tables import (
    COUNTERS,
    billing_usage,
    invocations,
    usage_events,
    usage_series,
)

FOLDED = (billing_usage, usage_series, usage_events, invocations)
"""The tables that hold generations."""


def _replaced(table: sa.Table, *kept: str) -> str:
    names = [column.name for column in table.columns if not column.primary_key]
    return ", ".join(f"{name} = excluded.{name}" for name in names if name not in kept)


def _passed(table: sa.Table) -> Rows:
    return Rows(*(column for column in table.columns if column.name != "generation"))


# Folding holds this shared lock, and a swap waits for all holders. Table locks are queued; with
# row locks a swap could be starved for as long as new folds keep coming.
HOLD_GENERATION = sa.text("LOCK TABLE generations IN ROW SHARE MODE")
HOLD_BACK_FOLDS = sa.text("LOCK TABLE generations IN EXCLUSIVE MODE")

READ_INVOCATIONS = sa.text(
    "SELECT * FROM invocations WHERE generation = :generation AND key = ANY(CAST(:keys AS bytea[]))"
)
INVOCATIONS = _passed(invocations)
# Most of a row is that of `invocations`, so both tables are written from the same arrays.
CHARGED = Rows(
    *(column for column in invocations.columns if column.name != "generation"),
    *(column for column in usage_events.columns if column.name not in invocations.columns),
)
_EVENT = ", ".join(column.name for column in usage_events.columns if column.name != "generation")
PUT_CHARGED = sa.text(
    f"""
    WITH charged AS MATERIALIZED (SELECT * FROM {CHARGED.sql}), put AS (
        INSERT INTO invocations (generation, {INVOCATIONS.names})
        SELECT :generation, {INVOCATIONS.names} FROM charged
        ON CONFLICT (generation, key) DO UPDATE SET {_replaced(invocations)}
    )
    INSERT INTO usage_events AS old (generation, {_EVENT})
    SELECT :generation, {_EVENT} FROM charged
    ON CONFLICT (generation, key) DO UPDATE SET {_replaced(usage_events, "provider")},
        provider = coalesce(excluded.provider, old.provider)
    """  # noqa: S608
)
_SUMMED = ", ".join(f"{name} = old.{name} + excluded.{name}" for name in ("invocations", *COUNTERS))
USAGE = _passed(billing_usage)
ADD_USAGE = sa.text(
    f"""
    INSERT INTO billing_usage AS old (generation, {USAGE.names})
    SELECT :generation, {USAGE.names} FROM {USAGE.sql}
    ON CONFLICT (generation, partition, user_id, period_key, runtime_provider) DO UPDATE SET
        {_SUMMED}, updated_at_ms = greatest(old.updated_at_ms, excluded.updated_at_ms)
    """  # noqa: S608
)
_SERIES_KEY = [column.name for column in usage_series.primary_key if column.name != "generation"]
SERIES = _passed(usage_series)
ADD_SERIES = sa.text(
    f"""
    INSERT INTO usage_series AS old (generation, {SERIES.names})
    SELECT :generation, {SERIES.names} FROM {SERIES.sql}
    ON CONFLICT (generation, {", ".join(_SERIES_KEY)}) DO UPDATE SET {_SUMMED}
    """  # noqa: S608
)
REMOVE_OLD_SERIES = sa.text(
    """
    DELETE FROM usage_series WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM usage_series
        WHERE bucket <> 'day' AND bucket = :bucket AND start_ms < :before LIMIT :most
        FOR UPDATE SKIP LOCKED))
    """
)
"""Days are never removed: the index that finds the others does not hold them."""

_IS_DUE = """
    ON CONFLICT (partition, user_id, period_key) DO UPDATE SET
        generation = excluded.generation, sequence = excluded.sequence
"""
CHANGED_ARE_DUE = sa.text(
    f"""
    INSERT INTO totals_due (partition, user_id, period_key, generation, sequence)
    SELECT :partition, user_id, period_key, :generation, :sequence
    FROM unnest(CAST(:users AS text[]), CAST(:periods AS text[])) AS due (user_id, period_key)
    {_IS_DUE}
    """  # noqa: S608
)
SWAPPED_ARE_DUE = sa.text(
    f"""
    INSERT INTO totals_due (partition, user_id, period_key, generation, sequence)
    SELECT DISTINCT partition, user_id, period_key, CAST(:new AS integer), 0
    FROM billing_usage WHERE generation IN (:live, :new) AND period_key >= :period
    {_IS_DUE}
    """  # noqa: S608
)
CURRENT_ARE_DUE = sa.text(
    """
    INSERT INTO totals_due (partition, user_id, period_key, generation, sequence)
    SELECT DISTINCT partition, user_id, period_key, 0, 0 FROM billing_usage
    WHERE generation = (SELECT live FROM generations WHERE scope = 'all')
        AND partition = :partition AND period_key >= :period
    ON CONFLICT DO NOTHING
    """
)
READ_DUE = sa.text(
    """
    SELECT d.user_id, d.period_key, d.noted, g.live, g.corrections,
        coalesce((SELECT epoch FROM checkpoints WHERE name = :checkpoint), 0) AS epoch,
        coalesce((SELECT sequence FROM checkpoints WHERE name = :checkpoint), 0) AS sequence,
        coalesce(sum(u.llm_tokens), 0) AS tokens, coalesce(sum(u.compute_ms), 0) AS compute_ms,
        coalesce(least(sum(u.requests), sum(u.invocations)), 0) AS requests
    FROM (
        SELECT user_id, period_key, CAST(xmin AS text) AS noted
        FROM totals_due WHERE partition = :partition LIMIT :most
    ) d
    JOIN generations g ON g.scope = 'all'
    LEFT JOIN billing_usage u ON (u.generation, u.partition, u.user_id, u.period_key)
        = (g.live, :partition, d.user_id, d.period_key)
    GROUP BY d.user_id, d.period_key, d.noted, g.live, g.corrections
    """
)
# Whoever changes a row makes another version of it, which is due in its turn.
NO_LONGER_DUE = sa.text(
    """
    DELETE FROM totals_due t
    USING unnest(CAST(:users AS text[]), CAST(:periods AS text[]), CAST(:noted AS text[]))
        AS put (user_id, period_key, noted)
    WHERE (t.partition, t.user_id, t.period_key) = (:partition, put.user_id, put.period_key)
        AND CAST(t.xmin AS text) = put.noted
    """
)

DEAD_GENERATIONS = sa.text(
    f"""
    SELECT DISTINCT generation
    FROM ({" UNION ".join(f"SELECT generation FROM {table.name}" for table in FOLDED)}) found
    WHERE generation <> (SELECT live FROM generations WHERE scope = 'all')
        AND generation NOT IN (SELECT generation FROM rebuilds)
    """  # noqa: S608
)
REMOVE = {
    table.name: sa.text(
        f"""
        DELETE FROM {table.name} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {table.name} WHERE generation = :generation LIMIT :most
            FOR UPDATE SKIP LOCKED))
        """  # noqa: S608
    )
    for table in FOLDED
}
