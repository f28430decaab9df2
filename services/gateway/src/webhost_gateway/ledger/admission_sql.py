"""The SQL of admission: the rows that it locks, and the statement itself, in three forms.

ADMIT is for a batch in which no API key has a limit and no call an idempotency key: without the
parts for those it takes a quarter less of the server's time. ADMIT_ONE is for such a batch of one,
as most are while there is little to do: with no order among calls it takes a fifth less again. A
part reads those before it.
"""

MAKE_QUOTAS = """
INSERT INTO quotas (user_id, period_key)
SELECT * FROM unnest(%(owners)s::text[], %(periods)s::text[])
ON CONFLICT DO NOTHING
"""

MAKE_KEY_QUOTAS = """
INSERT INTO key_quotas (key_id, period_key)
SELECT * FROM unnest(%(owners)s::text[], %(periods)s::text[])
ON CONFLICT DO NOTHING
"""

_ASKED = """
asked AS MATERIALIZED (
    SELECT * FROM ROWS FROM (json_to_recordset(%(asked)s::json) AS (
        id text, user_id text, agent_id text, deployment_id text, runtime_provider text,
        trace_id text, period_key text, admitted_at_ms bigint, key_id text, key_period text,
        max_requests bigint, max_in_flight bigint, max_key_requests bigint
    )) WITH ORDINALITY AS a(
        id, user_id, agent_id, deployment_id, runtime_provider,
        trace_id, period_key, admitted_at_ms, key_id, key_period,
        max_requests, max_in_flight, max_key_requests, place
    )
)"""

# `taken` is what this snapshot shows; a key that was committed later is in the way of `claimed`,
# which ends the statement as a whole.
_CLAIMS = """
claims AS MATERIALIZED (
    SELECT c.*,
        row_number() OVER (PARTITION BY user_id, agent_id, kind, key ORDER BY place) AS turn,
        EXISTS (
            SELECT FROM idempotency i
            WHERE (i.user_id, i.agent_id, i.kind, i.key) = (c.user_id, c.agent_id, c.kind, c.key)
        ) AS taken
    FROM ROWS FROM (json_to_recordset(%(claims)s::json) AS (
        invocation_id text, user_id text, agent_id text, kind text, key text,
        key_id text, fingerprint text, created_at_ms bigint
    )) WITH ORDINALITY AS c(
        invocation_id, user_id, agent_id, kind, key, key_id, fingerprint, created_at_ms, place
    )
),
repeated AS (
    SELECT place FROM claims WHERE taken OR turn > 1
)"""

_ALIVE = """
alive AS MATERIALIZED (
    SELECT gateway_id FROM leases
    WHERE gateway_id = %(gateway_id)s AND expires_at > clock_timestamp()
        AND NOT dead AND incarnation = current_setting('webhost.incarnation')
    FOR KEY SHARE
)"""

_LOCKED = """
locked AS MATERIALIZED (
    SELECT user_id, period_key, requests, in_flight FROM quotas
    WHERE EXISTS (SELECT FROM alive)
        AND user_id = ANY(%(users)s::text[]) AND period_key >= %(oldest)s
    ORDER BY user_id, period_key
    FOR UPDATE
),
standing AS (
    SELECT user_id, period_key, requests,
        sum(in_flight) OVER (PARTITION BY user_id) AS in_flight
    FROM locked
)"""

_LOCKED_KEYS = """
locked_keys AS MATERIALIZED (
    SELECT key_id, period_key AS key_period, requests AS key_requests FROM key_quotas
    WHERE (SELECT count(*) FROM locked) > 0
        AND key_id = ANY(%(keys)s::text[]) AND period_key = ANY(%(key_periods)s::text[])
    ORDER BY key_id, period_key
    FOR UPDATE
)"""

_CANDIDATES = """
candidates AS (
    SELECT a.*, s.requests, s.in_flight, NULL::bigint AS key_requests, true AS fits_key
    FROM asked a JOIN standing s USING (user_id, period_key)
)"""

_CANDIDATES_WITH_KEYS = """
candidates AS (
    SELECT a.*, s.requests, s.in_flight, k.key_requests,
        max_key_requests IS NULL OR max_key_requests >= k.key_requests
            + row_number() OVER (PARTITION BY key_id, key_period ORDER BY place) AS fits_key
    FROM asked a
    JOIN standing s USING (user_id, period_key)
    LEFT JOIN locked_keys k USING (key_id, key_period)
    WHERE place NOT IN (SELECT place FROM repeated)
        AND (max_key_requests IS NULL OR k.key_requests IS NOT NULL)
)"""

_RECORDED = """
ranked AS (
    SELECT *,
        requests + row_number() OVER (PARTITION BY user_id, period_key ORDER BY place) AS request,
        in_flight + row_number() OVER (PARTITION BY user_id ORDER BY place) AS concurrent
    FROM candidates WHERE fits_key
),
fitting AS MATERIALIZED (
    SELECT * FROM ranked
    WHERE request <= coalesce(max_requests, request)
        AND concurrent <= coalesce(max_in_flight, concurrent)
),
recorded AS (
    INSERT INTO invocations (id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
        period_key, admitted_at_ms, key_id, key_period, gateway_id)
    SELECT id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
        period_key, admitted_at_ms, key_id, key_period, %(gateway_id)s
    FROM fitting
    ON CONFLICT (id) DO NOTHING
    RETURNING id, user_id, period_key, key_id, key_period
),
taken AS (
    UPDATE quotas q SET requests = q.requests + r.n, in_flight = q.in_flight + r.n
    FROM (
        SELECT user_id, period_key, count(*) AS n FROM recorded GROUP BY user_id, period_key
    ) r
    WHERE q.user_id = ANY(%(users)s::text[])
        AND (q.user_id, q.period_key) = (r.user_id, r.period_key)
)"""

_TAKEN_OF_KEYS = """
taken_of_keys AS (
    UPDATE key_quotas q SET requests = q.requests + r.n
    FROM (
        SELECT key_id, key_period, count(*) AS n FROM recorded
        WHERE key_period IS NOT NULL GROUP BY key_id, key_period
    ) r
    WHERE q.key_id = ANY(%(keys)s::text[])
        AND (q.key_id, q.period_key) = (r.key_id, r.key_period)
)"""

_CLAIMED = """
claimed AS (
    INSERT INTO idempotency (user_id, agent_id, kind, key, key_id, fingerprint, invocation_id,
        created_at_ms)
    SELECT user_id, agent_id, kind, key, key_id, decode(fingerprint, 'hex'), invocation_id,
        created_at_ms
    FROM claims WHERE invocation_id IN (SELECT id FROM recorded)
)"""

_VERDICTS = """
SELECT place, admitted, (requests + taken_here)::bigint, (in_flight + taken_by_user)::bigint,
    key_requests
FROM (
    SELECT c.*, recorded.id IS NOT NULL AS admitted,
        count(recorded.id) OVER (PARTITION BY c.user_id, c.period_key) AS taken_here,
        count(recorded.id) OVER (PARTITION BY c.user_id) AS taken_by_user
    FROM candidates c LEFT JOIN recorded ON recorded.id = c.id
) answered"""

_VERDICTS_WITH_KEYS = """
SELECT place, admitted, (requests + taken_here)::bigint, (in_flight + taken_by_user)::bigint,
    (key_requests + taken_by_key)::bigint
FROM (
    SELECT c.*, recorded.id IS NOT NULL AS admitted,
        count(recorded.id) OVER (PARTITION BY c.user_id, c.period_key) AS taken_here,
        count(recorded.id) OVER (PARTITION BY c.user_id) AS taken_by_user,
        count(recorded.id) OVER (PARTITION BY c.key_id, c.key_period) AS taken_by_key
    FROM candidates c LEFT JOIN recorded ON recorded.id = c.id
) answered
UNION ALL SELECT place, NULL, 0, 0, NULL FROM repeated"""


_ONE = """
locked AS MATERIALIZED (
    SELECT period_key, requests, in_flight FROM quotas
    WHERE EXISTS (SELECT FROM alive)
        AND user_id = %(user_id)s AND period_key >= %(oldest)s
    ORDER BY period_key
    FOR UPDATE
),
standing AS (
    SELECT requests, (SELECT sum(in_flight) FROM locked)::bigint AS in_flight
    FROM locked WHERE period_key = %(period_key)s
),
recorded AS (
    INSERT INTO invocations (id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
        period_key, admitted_at_ms, key_id, key_period, gateway_id)
    SELECT %(id)s, %(user_id)s, %(agent_id)s, %(deployment_id)s, %(runtime_provider)s,
        %(trace_id)s, %(period_key)s, %(admitted_at_ms)s::bigint, %(key_id)s, %(key_period)s,
        %(gateway_id)s
    FROM standing
    WHERE requests < coalesce(%(max_requests)s, requests + 1)
        AND in_flight < coalesce(%(max_in_flight)s, in_flight + 1)
    ON CONFLICT (id) DO NOTHING
    RETURNING user_id
),
taken AS (
    UPDATE quotas q SET requests = q.requests + 1, in_flight = q.in_flight + 1
    FROM recorded r
    WHERE q.user_id = r.user_id AND q.user_id = %(user_id)s AND q.period_key = %(period_key)s
)
SELECT 1, n = 1, requests + n, in_flight + n, NULL
FROM standing CROSS JOIN (SELECT count(*) AS n FROM recorded) AS counted"""


def _with(*queries: str) -> str:
    return f"WITH {','.join(queries)}"


ADMIT_ONE = _with(_ALIVE, _ONE)
ADMIT = _with(_ASKED, _ALIVE, _LOCKED, _CANDIDATES, _RECORDED) + _VERDICTS
ADMIT_WITH_KEYS = (
    _with(
        *(_ASKED, _CLAIMS, _ALIVE, _LOCKED, _LOCKED_KEYS, _CANDIDATES_WITH_KEYS),
        *(_RECORDED, _TAKEN_OF_KEYS, _CLAIMED),
    )
    + _VERDICTS_WITH_KEYS
)
