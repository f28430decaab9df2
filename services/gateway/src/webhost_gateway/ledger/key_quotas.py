"""The limits of API keys, as parts of the admission's statement: NONE of a batch has one, or SOME.

What its key has no room for takes no place in its user's order. A key's quota is locked behind its
user's, and read as it was locked: whoever takes or gives back a request holds both.
"""

MAKE = """
INSERT INTO key_quotas (key_id, period_key)
SELECT * FROM unnest(%(owners)s::text[], %(periods)s::text[])
ON CONFLICT DO NOTHING
"""

NONE = {
    "keys": "",
    "asked": "asked",
    "taken_of_keys": "",
    "used": "",
    "taken_by_key": "",
    "every": "ranked",
}

SOME = {
    "keys": """
locked_keys AS MATERIALIZED (
    SELECT key_id, period_key AS key_period, requests AS key_requests FROM key_quotas
    WHERE (SELECT count(*) FROM locked) > 0
        AND key_id = ANY(%(keys)s::text[]) AND period_key = ANY(%(key_periods)s::text[])
    ORDER BY key_id, period_key
    FOR UPDATE
),
ranked_by_key AS MATERIALIZED (
    SELECT a.*, k.key_requests,
        k.key_requests + row_number() OVER (PARTITION BY key_id, key_period ORDER BY place)
            AS key_request
    FROM asked a LEFT JOIN locked_keys k USING (key_id, key_period)
    WHERE max_key_requests IS NULL OR k.key_requests IS NOT NULL
),
within_keys AS (
    SELECT * FROM ranked_by_key WHERE max_key_requests IS NULL OR key_request <= max_key_requests
),""",
    "asked": "within_keys",
    "taken_of_keys": """,
taken_of_keys AS (
    UPDATE key_quotas q SET requests = q.requests + r.n
    FROM (
        SELECT key_id, key_period, count(*) AS n FROM recorded
        WHERE key_period IS NOT NULL GROUP BY key_id, key_period
    ) r
    WHERE q.key_id = ANY(%(keys)s::text[])
        AND (q.key_id, q.period_key) = (r.key_id, r.key_period)
)""",
    "used": ", (key_requests + taken_by_key)::bigint",
    "taken_by_key": """,
        count(recorded.id) OVER (PARTITION BY every.key_id, every.key_period) AS taken_by_key""",
    "every": "(SELECT * FROM ranked_by_key JOIN standing USING (user_id, period_key))",
}
