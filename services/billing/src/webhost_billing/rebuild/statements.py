"""The raw SQL of rebuilds, as named statements.

`live` and `new` are generations. Every statement is limited to the scope of the rebuild: to one
user, one period, or neither.
"""

import sqlalchemy as sa

from webhost_billing.statements import FOLDED
from webhost_billing.tables import COUNTERS, billing_usage, sealed_usage, usage_series

_PERIOD_OF = {"invocations": "charged_period"}
_TIME_OF = {"usage_events": "at_ms", "usage_series": "start_ms"}
"""What says which period a row is of, where that is not `period_key`."""


def scope(table: str, alias: str) -> str:
    """Return the condition that a row is in the scope."""
    user = f"(CAST(:user AS text) IS NULL OR {alias}.user_id = :user)"
    if table in _TIME_OF:
        time = f"{alias}.{_TIME_OF[table]}"
        within = f"{time} >= CAST(:begin AS bigint) AND {time} < CAST(:end AS bigint)"
    else:
        period = f"{alias}.{_PERIOD_OF.get(table, 'period_key')}"
        within = f"(CAST(:period AS text) IS NULL OR {period} = :period)"
    return f"{user} AND {within}"


def _before(table: str, alias: str) -> str:
    """Return the condition that a row is of a period before `carried`."""
    if table in _TIME_OF:
        return f"{alias}.{_TIME_OF[table]} < CAST(:carried_end AS bigint)"
    return f"{alias}.{_PERIOD_OF.get(table, 'period_key')} < :carried"


def _keys(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key if column.name != "generation"]


def _copied(table: sa.Table, alias: str, generation: str) -> str:
    names = [column.name for column in table.columns]
    return ", ".join(
        f"CAST(:{generation} AS integer)" if n == "generation" else f"{alias}.{n}" for n in names
    )


_CLOSED = """
    (SELECT partition, max(through) AS through FROM partition_seals WHERE applied
        GROUP BY partition)
"""

# The periods in the scope, and whether every partition with usage in them has closed them.
PERIODS = sa.text(
    f"""
    SELECT u.period_key,
        bool_and(u.invocations = 0 OR u.period_key <= coalesce(s.through, '')) AS closed
    FROM billing_usage u LEFT JOIN {_CLOSED} s USING (partition)
    WHERE u.generation = :live AND {scope("billing_usage", "u")}
    GROUP BY u.period_key ORDER BY u.period_key
    """  # noqa: S608
)
CLOSED_EVERYWHERE = sa.text(
    f"""
    SELECT CASE WHEN count(*) = :partitions THEN min(through) ELSE '' END FROM {_CLOSED} s
    """  # noqa: S608
)
CLOSED_ELSEWHERE = sa.text(
    """
    SELECT coalesce(max(through), '') FROM partition_seals
    WHERE applied AND stream_created_at <> :created_at
    """
)

SEALS_APPLIED = sa.text("SELECT count(*) FROM partition_seals WHERE applied")

# What the stream does not hold whole any more is as it is in the live generation.
CARRIED = tuple(table for table in FOLDED if table.name != "invocations")
DROP_CARRIED = {
    table.name: sa.text(
        f"DELETE FROM {table.name} t WHERE t.generation = :new"  # noqa: S608
        f" AND {scope(table.name, 't')} AND {_before(table.name, 't')}"
    )
    for table in CARRIED
}
CARRY_OVER = {
    table.name: sa.text(
        f"INSERT INTO {table.name} SELECT {_copied(table, 't', 'new')} FROM {table.name} t"  # noqa: S608
        f" WHERE t.generation = :live AND {scope(table.name, 't')} AND {_before(table.name, 't')}"
    )
    for table in CARRIED
}

_VALUES = ("invocations", *COUNTERS, "updated_at_ms")
_SAME_ROW = "(u.partition, u.user_id, u.period_key, u.runtime_provider)"
_SAME_SEAL = "(s.partition, s.user_id, s.period_key, s.runtime_provider)"


def _values(alias: str) -> str:
    return "(" + ", ".join(f"{alias}.{name}" for name in _VALUES) + ")"


def _sides(left: str, right: str) -> str:
    return ", ".join(
        f"{table}.{name} AS {side}_{name}"
        for side, table in (("live", left), ("new", right))
        for name in COUNTERS
    )


# Closed rows that are not what they were sealed with.
UNLIKE_SEALS = sa.text(
    f"""
    WITH u AS (
        SELECT u.* FROM billing_usage u JOIN {_CLOSED} c USING (partition)
        WHERE u.generation = :generation AND u.invocations > 0 AND u.period_key <= c.through
            AND {scope("billing_usage", "u")}
    ), s AS (
        SELECT s.* FROM sealed_usage s JOIN {_CLOSED} c USING (partition)
        WHERE s.period_key <= c.through AND {scope("sealed_usage", "s")}
    )
    SELECT user_id, period_key, runtime_provider, {_sides("s", "u")}, count(*) OVER () AS found
    FROM s FULL JOIN u USING (partition, user_id, period_key, runtime_provider)
    WHERE {_values("s")} IS DISTINCT FROM {_values("u")}
    ORDER BY user_id, period_key, runtime_provider LIMIT :most
    """  # noqa: S608
)
DROP_UNLIKE_SEALS = sa.text(
    f"""
    DELETE FROM billing_usage u USING {_CLOSED} c
    WHERE c.partition = u.partition AND u.generation = :new AND u.invocations > 0
        AND u.period_key <= c.through AND {scope("billing_usage", "u")}
        AND NOT EXISTS (
            SELECT FROM sealed_usage s
            WHERE {_SAME_SEAL} = {_SAME_ROW} AND {_values("s")} = {_values("u")}
        )
    """  # noqa: S608
)
_SEALED_COLUMNS = ", ".join(
    "CAST(:new AS integer)" if column.name == "generation" else f"s.{column.name}"
    for column in billing_usage.columns
)
assert {column.name for column in sealed_usage.columns} >= {*_keys(billing_usage), *_VALUES}
PUT_SEALS = sa.text(
    f"""
    INSERT INTO billing_usage SELECT {_SEALED_COLUMNS}
    FROM sealed_usage s JOIN {_CLOSED} c USING (partition)
    WHERE s.period_key <= c.through AND {scope("sealed_usage", "s")}
    ON CONFLICT (generation, partition, user_id, period_key, runtime_provider) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in _VALUES)}
    """  # noqa: S608
)

DIFFERENCES = sa.text(
    f"""
    WITH live AS (
        SELECT * FROM billing_usage u WHERE u.generation = :live
            AND u.period_key > :above AND u.period_key <= :upto AND {scope("billing_usage", "u")}
    ), new AS (
        SELECT * FROM billing_usage u WHERE u.generation = :new
            AND u.period_key > :above AND u.period_key <= :upto AND {scope("billing_usage", "u")}
    )
    SELECT user_id, period_key, runtime_provider, {_sides("live", "new")},
        count(*) OVER () AS found
    FROM live FULL JOIN new USING (partition, user_id, period_key, runtime_provider)
    WHERE to_jsonb(live) - 'generation' IS DISTINCT FROM to_jsonb(new) - 'generation'
    ORDER BY user_id, period_key, runtime_provider LIMIT :most
    """  # noqa: S608
)

_SERIES_KEYS = ", ".join(_keys(usage_series))
_SERIES = f"""
    SELECT * FROM usage_series u WHERE u.start_ms >= :from_ms AND u.start_ms < :until_ms
        AND u.start_ms >= CASE u.bucket WHEN 'minute' THEN CAST(:minutes AS bigint)
            WHEN 'hour' THEN CAST(:hours AS bigint) ELSE 0 END
        AND {scope("usage_series", "u")}
"""  # noqa: S608
_SERIES_VALUES = ("invocations", *COUNTERS)
# Series as far back as they can be read.
SERIES_DIFFERENCES = sa.text(
    f"""
    WITH live AS ({_SERIES} AND u.generation = :live), new AS ({_SERIES} AND u.generation = :new)
    SELECT {_SERIES_KEYS}, {_sides("live", "new")}, count(*) OVER () AS found
    FROM live FULL JOIN new USING ({_SERIES_KEYS})
    WHERE ({", ".join(f"live.{name}" for name in _SERIES_VALUES)})
        IS DISTINCT FROM ({", ".join(f"new.{name}" for name in _SERIES_VALUES)})
    ORDER BY user_id, start_ms, bucket, agent_id, deployment_id, runtime_provider LIMIT :most
    """  # noqa: S608
)

# Invocations that were counted, in periods that are open somewhere, of which the new rows lack one
# side, or both.
# LATERAL with a LIMIT keeps the plan at look-ups by key, here and below: of a new generation
# Postgres has no statistics, takes it for empty, and would compare every row with every other.
_AS_COUNTED = """
    LEFT JOIN LATERAL (
        SELECT invocation_id IS NOT NULL AS by_gateway, worker_requests IS NOT NULL AS by_worker
        FROM invocations WHERE (generation, key) = (:new, live.key) LIMIT 1
    ) new ON true
"""
_LACKS_A_SIDE = """(
    new.by_gateway IS NULL OR live.invocation_id IS NOT NULL AND NOT new.by_gateway
    OR live.worker_requests IS NOT NULL AND NOT new.by_worker
)"""
MISSING = sa.text(
    f"""
    SELECT live.key FROM invocations live {_AS_COUNTED}
    WHERE live.generation = :live AND live.charged_period > :closed
        AND {scope("invocations", "live")} AND {_LACKS_A_SIDE}
    LIMIT :most
    """  # noqa: S608
)
STILL_MISSING = sa.text(
    f"""
    SELECT count(*)
    FROM unnest(CAST(:keys AS bytea[])) missing (key) CROSS JOIN LATERAL (
        SELECT * FROM invocations WHERE (generation, key) = (:live, missing.key) LIMIT 1
    ) live {_AS_COUNTED}
    WHERE {_LACKS_A_SIDE}
    """  # noqa: S608
)


def _open(table: sa.Table, alias: str) -> str:
    """Return the condition that what is known of single invocations is still kept."""
    return f" AND {alias}.charged_period > :closed" if table.name == "invocations" else ""


def _changed_keys(table: sa.Table) -> sa.TextClause:
    keys, rows = ", ".join(_keys(table)), scope(table.name, "t") + _open(table, "t")
    return sa.text(
        f"""
        SELECT count(*) AS found, coalesce(CAST(json_agg(k) AS text), '[]') AS keys FROM (
            SELECT {keys}
            FROM (SELECT * FROM {table.name} t WHERE t.generation = :live AND {rows}) live
            FULL JOIN (SELECT * FROM {table.name} t WHERE t.generation = :new AND {rows}) new
                USING ({keys})
            WHERE to_jsonb(live) - 'generation' IS DISTINCT FROM to_jsonb(new) - 'generation'
            LIMIT :most
        ) k
        """  # noqa: S608
    )


def _passed(table: sa.Table, generation: str, selected: str) -> str:
    """Return the query for the rows of the scope whose keys are passed.

    The generation is a subquery: where its number is known, and taken for empty, an index of
    nothing but the generation is thought as good as that of the key.
    """
    keys = _keys(table)
    of = {alias: ", ".join(f"{alias}.{key}" for key in keys) for alias in ("t", "k")}
    return f"""
        SELECT found.*
        FROM json_populate_recordset(NULL::{table.name}, CAST(:keys AS json)) k CROSS JOIN LATERAL (
            SELECT {selected} FROM {table.name} t
            WHERE t.generation = (SELECT CAST(:{generation} AS integer))
                AND ({of["t"]}) = ({of["k"]}) AND {scope(table.name, "t")}{_open(table, "t")}
            LIMIT 1
        ) found
    """  # noqa: S608


CHANGED_KEYS = {table.name: _changed_keys(table) for table in FOLDED}
"""The keys, as JSON, of the rows of the scope that are not the same in both generations."""
DROP_CHANGED = {
    table.name: sa.text(
        f"DELETE FROM {table.name} WHERE ctid = ANY(ARRAY({_passed(table, 'live', 't.ctid')}))"  # noqa: S608
    )
    for table in FOLDED
}
PUT_CHANGED = {
    table.name: sa.text(
        f"INSERT INTO {table.name} {_passed(table, 'new', _copied(table, 't', 'live'))}"
    )
    for table in FOLDED
}
MOVED = sa.text(
    """
    SELECT count(*)
    FROM json_populate_recordset(NULL::invocations, CAST(:keys AS json)) k CROSS JOIN LATERAL (
        SELECT FROM invocations t
        WHERE t.generation IN (:live, :new) AND t.key = k.key AND t.charged_period <> :period
        LIMIT 1
    ) moved
    """
)
SCOPE_IS_DUE = sa.text(
    f"""
    INSERT INTO totals_due (partition, user_id, period_key, generation, sequence)
    SELECT DISTINCT u.partition, u.user_id, u.period_key, CAST(:live AS integer), 0
    FROM billing_usage u WHERE u.generation IN (:live, :new) AND u.period_key >= :current
        AND {scope("billing_usage", "u")}
    ON CONFLICT (partition, user_id, period_key) DO UPDATE SET
        generation = excluded.generation, sequence = excluded.sequence
    """  # noqa: S608
)
