"""All raw SQL of the feed of settled usage, as named statements; see `statements`."""

import sqlalchemy as sa
from webhost_kit.database.rows import Rows

from webhost_billing.feed.decisions import WAIT_MS
from webhost_billing.tables import COUNTERS, usage_feed, usage_unsettled

STATED = tuple(
    column.name for column in usage_feed.columns if column.name not in ("partition", "number")
)
_STATED = ", ".join(STATED)
_COUNTERS = ", ".join(f"i.{name}" for name in COUNTERS)

READ_WAITING = sa.text(
    """
    SELECT h.stream_ms, w.key, w.since_ms
    FROM (
        SELECT coalesce(max(stream_ms), 0) AS stream_ms FROM feed_heads
        WHERE partition = :partition
    ) h
    LEFT JOIN usage_unsettled w ON w.key = ANY(CAST(:keys AS bytea[]))
    """
)

WAITING = Rows(usage_unsettled.c.key, usage_unsettled.c.since_ms)
ENTRIES = Rows(*(column for column in usage_feed.columns if column.name != "partition"))
# `entries` come with their place among those of one moment as their number. What waited and is due
# is stated as the live generation has it: it changed in no report of this batch. A statement sees
# nothing of what its other parts write, so `done` is named twice. LATERAL with a LIMIT keeps the
# plan at look-ups by key, also where Postgres expects many more to be due than are.
STATE = sa.text(
    f"""
    WITH gone AS (
        DELETE FROM usage_unsettled WHERE key = ANY(CAST(:done AS bytea[]))
    ), due AS (
        DELETE FROM usage_unsettled
        WHERE partition = :partition AND since_ms <= :stream_ms - {WAIT_MS}
            AND NOT key = ANY(CAST(:done AS bytea[]))
        RETURNING key, since_ms
    ), waits AS (
        INSERT INTO usage_unsettled (partition, key, since_ms)
        SELECT :partition, key, since_ms FROM {WAITING.sql}
        ON CONFLICT DO NOTHING
    ), entries AS (
        SELECT number AS place, {_STATED} FROM {ENTRIES.sql}
        UNION ALL
        SELECT 0, due.since_ms + {WAIT_MS},
            coalesce(i.invocation_id, 'use_' || encode(i.key, 'hex')), NULL,
            i.user_id, i.agent_id, i.deployment_id, i.charged_runtime, i.charged_period, i.at_ms,
            CASE WHEN i.invocation_id IS NULL THEN 'worker' ELSE 'gateway' END,
            i.invocation_id, i.key_id, {_COUNTERS}
        FROM due CROSS JOIN LATERAL (
            SELECT * FROM invocations
            WHERE (generation, key) = (:generation, due.key) LIMIT 1
        ) i
    ), head AS (
        INSERT INTO feed_heads AS old (partition, newest, oldest, removed_ms, stream_ms)
        SELECT :partition, count(*), 1, 0, :stream_ms FROM entries
        ON CONFLICT (partition) DO UPDATE SET
            newest = old.newest + excluded.newest, stream_ms = excluded.stream_ms
        RETURNING newest
    )
    INSERT INTO usage_feed (partition, number, {_STATED})
    SELECT :partition,
        head.newest - count(*) OVER ()
            + row_number() OVER (ORDER BY settled_ms, place, id COLLATE "C"),
        {_STATED}
    FROM entries, head
    """  # noqa: S608
)

# What waits and is charged to a period that is closed now is due now.
SEALED_ARE_DUE = sa.text(
    f"""
    UPDATE usage_unsettled w SET since_ms = least(w.since_ms, :stream_ms - {WAIT_MS})
    FROM invocations i
    WHERE w.partition = :partition AND (i.generation, i.key) = (:generation, w.key)
        AND i.charged_period <= :through
    """  # noqa: S608
)

OLDEST_WAITING = sa.text("SELECT min(since_ms) FROM usage_unsettled WHERE partition = :partition")
# Since when the first waits that so many wait longer than.
BEYOND_CHUNK = sa.text(
    """
    SELECT since_ms FROM usage_unsettled WHERE partition = :partition
    ORDER BY since_ms OFFSET :most LIMIT 1
    """
)

# `settled_ms` never falls as numbers rise.
REMOVE_OLD = sa.text(
    """
    WITH old AS (
        SELECT max(number) AS newest FROM (
            SELECT number, settled_ms FROM usage_feed WHERE partition = :partition
            ORDER BY number LIMIT :most
        ) oldest WHERE settled_ms < :before_ms
    ), removed AS (
        DELETE FROM usage_feed
        WHERE partition = :partition AND number <= (SELECT newest FROM old)
        RETURNING number, settled_ms
    )
    UPDATE feed_heads SET oldest = r.newest + 1, removed_ms = greatest(removed_ms, r.settled_ms)
    FROM (SELECT max(number) AS newest, max(settled_ms) AS settled_ms, count(*) FROM removed) r
    WHERE partition = :partition AND r.newest IS NOT NULL
    RETURNING r.count
    """
)

READ_PLACES = sa.text(
    """
    SELECT f.* FROM unnest(
        CAST(:partitions AS smallint[]), CAST(:begins AS bigint[]), CAST(:ends AS bigint[])
    ) AS place (partition, begins, ends)
    CROSS JOIN LATERAL (
        SELECT * FROM usage_feed
        WHERE partition = place.partition AND number BETWEEN place.begins AND place.ends
        ORDER BY number LIMIT :most
    ) f
    ORDER BY f.partition, f.number
    """
)

_TOTALS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in COUNTERS)
USAGE_OF_PERIOD = sa.text(
    f"SELECT {_TOTALS} FROM billing_usage WHERE generation = :generation AND period_key = :period"  # noqa: S608
)
WAITING_OF_PERIOD = sa.text(
    f"""
    SELECT count(*) AS waiting, {_TOTALS} FROM usage_unsettled w
    JOIN invocations i ON (i.generation, i.key) = (:generation, w.key)
    WHERE i.charged_period = :period
    """  # noqa: S608
)
