"""The raw SQL of seals and of what goes with them, as named statements."""

import sqlalchemy as sa

from webhost_billing.tables import COUNTERS

# The rows of one partition that a seal closes, in order, those of the next users in one answer.
TO_SEAL = sa.text(
    """
    WITH next AS (
        SELECT DISTINCT user_id, period_key FROM billing_usage
        WHERE generation = :generation AND partition = :partition AND invocations > 0
            AND period_key > :before AND period_key <= :through
            AND (user_id, period_key) > (:user, :period)
        ORDER BY user_id, period_key LIMIT :most
    )
    SELECT u.*, coalesce(p.version, 0) AS version, coalesce(p.reached, '{}') AS reached,
        p.sealed_at_sequence
    FROM next
    JOIN billing_usage u ON (u.generation, u.partition, u.user_id, u.period_key)
        = (:generation, :partition, next.user_id, next.period_key) AND u.invocations > 0
    LEFT JOIN periods p ON (p.user_id, p.period_key) = (next.user_id, next.period_key)
    ORDER BY u.user_id, u.period_key, u.runtime_provider
    """
)

# The last period that every partition has closed, where invocations of it may still be there.
TO_FORGET = sa.text(
    """
    SELECT g.live, min(s.through) AS through FROM generations g,
        (SELECT partition, max(through) AS through FROM partition_seals WHERE applied
            GROUP BY partition) s
    WHERE g.scope = 'all'
    GROUP BY g.live, g.forgotten_through
    HAVING count(*) = :partitions AND min(s.through) > g.forgotten_through
    """
)

PAGES = sa.text(
    "SELECT pg_relation_size(CAST(:table AS regclass)) / current_setting('block_size')::integer"
)
_RANGE = "ctid >= CAST(:first AS tid) AND ctid < CAST(:end AS tid)"
FORGET = sa.text(
    f"""
    DELETE FROM invocations i
    WHERE {_RANGE} AND generation = :live AND charged_period <= :through
        AND NOT EXISTS (SELECT FROM usage_unsettled u WHERE u.key = i.key)
    """  # noqa: S608
)
REMOVE_OLD_EVENTS = sa.text(
    f"""
    DELETE FROM usage_events e WHERE {_RANGE}
        AND e.at_ms < CAST(:now AS bigint) - CAST(:least AS bigint) * 86400000
        AND e.at_ms < :now - 86400000 * coalesce((
            SELECT t.days FROM accounts a
            JOIN unnest(CAST(:tiers AS text[]), CAST(:days AS bigint[])) t (tier, days)
                USING (tier)
            WHERE a.user_id = e.user_id
        ), CAST(:default AS bigint))
    """  # noqa: S608
)
REMOVE_OLD_LATE_REPORTS = sa.text(
    """
    DELETE FROM late_reports WHERE recorded_at_ms < greatest(:before, (
        SELECT recorded_at_ms FROM late_reports
        ORDER BY recorded_at_ms DESC OFFSET :most LIMIT 1
    ))
    """
)

_CHARGED = ", ".join(f"sum({name}) AS {name}" for name in COUNTERS)
_BOTH = ", ".join(
    f"{side}.{name} AS {side}_{name}" for side in ("live", "new") for name in COUNTERS
)
_SAME = " AND ".join(f"live.{name} = new.{name}" for name in ("invocations", *COUNTERS))


def _unlike(live: str, new: str, key: str) -> sa.TextClause:
    """Return the statement for the rows, by this key, whose counters differ."""
    return sa.text(
        f"""
        WITH live AS ({live}), new AS ({new})
        SELECT {key}, {_BOTH} FROM live FULL JOIN new USING ({key})
        WHERE NOT coalesce({_SAME}, false)
        ORDER BY {key} LIMIT :most
        """  # noqa: S608
    )


_USAGE = """
    SELECT * FROM billing_usage
    WHERE generation = :live AND period_key > :closed AND invocations > 0
"""
_USAGE_KEY = "user_id, period_key, runtime_provider"
# Usage of open periods that is not the sum of its invocations.
UNLIKE_INVOCATIONS = _unlike(
    _USAGE,
    f"""
    SELECT user_id, charged_period AS period_key, charged_runtime AS runtime_provider,
        count(*) AS invocations, {_CHARGED}
    FROM invocations WHERE generation = :live AND charged_period > :closed
    GROUP BY user_id, charged_period, charged_runtime
    """,  # noqa: S608
    _USAGE_KEY,
)
# Usage of open periods that is not the sum of its days.
UNLIKE_DAYS = _unlike(
    _USAGE,
    f"""
    SELECT user_id, to_char(to_timestamp(start_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM')
            AS period_key,
        runtime_provider, sum(invocations) AS invocations, {_CHARGED}
    FROM usage_series WHERE generation = :live AND bucket = 'day' AND start_ms >= :closed_ms
    GROUP BY 1, 2, 3 HAVING sum(invocations) > 0
    """,  # noqa: S608
    _USAGE_KEY,
)
# Days that are not the sum of their hours, or of their minutes.
UNLIKE_BUCKETS = _unlike(
    """
    SELECT * FROM usage_series
    WHERE generation = :live AND bucket = 'day' AND start_ms >= :from_ms
    """,
    f"""
    SELECT user_id, agent_id, deployment_id, runtime_provider,
        start_ms - start_ms % 86400000 AS start_ms, sum(invocations) AS invocations, {_CHARGED}
    FROM usage_series WHERE generation = :live AND bucket = :bucket AND start_ms >= :from_ms
    GROUP BY 1, 2, 3, 4, 5
    """,  # noqa: S608
    "user_id, start_ms, agent_id, deployment_id, runtime_provider",
)
LOST_SEALS = sa.text(
    """
    SELECT e.aggregate_id FROM events e WHERE e.type = 'period.sealed.v1' AND NOT EXISTS (
        SELECT FROM periods p WHERE p.user_id || '.' || p.period_key = e.aggregate_id
            AND p.sealed_at_sequence IS NOT NULL
    ) LIMIT :most
    """
)
SEALS_OF_STREAM = sa.text(
    """
    SELECT partition, through, sequence FROM partition_seals
    WHERE applied AND stream_created_at = :created_at ORDER BY partition, through
    """
)
COUNTED = sa.text(
    """
    SELECT (SELECT count(*) FROM periods WHERE sealed_at_sequence IS NOT NULL) AS sealed,
        (SELECT count(*) FROM billing_usage WHERE generation = :live AND invocations > 0) AS rows,
        (SELECT count(*) FROM invocations WHERE generation = :live) AS invocations
    """
)
