"""Outcomes: how an admitted call ended, recorded once and stated as a fact.

Emits: `invocation.finished.v1`, one per invocation, into the usage outbox, in the statement that
closes the invocation's row and frees its place in the concurrency limit.
Hot path: its statements are raw SQL, named at the end of the file.
Guarantees: only an open row gets an outcome, so a second attempt changes nothing. A released call,
of which no byte was written, leaves no count and no fact, but a closed row: an admission of unknown
outcome that is executed later finds it and admits nothing. Outcomes that arrive together share a
statement, and are kept until the database has recorded them. Until then their calls are `expected`.
What a call with an idempotency key was answered is stored in the statement that closes it; where
the call is released, its claim is given up.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
from prometheus_client import Counter, Histogram
from webhost_kit.batching import Batcher
from webhost_kit.clock import now_ms
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Unavailable
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.metrics import CALL_S

from webhost_gateway.ledger import idempotency
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.recording import Recording
from webhost_gateway.model import Closing, Invocation, Outcome, closing

RETRY_S = 0.5
LINGER_S = 0.005
"""No answer waits for its outcome, so a short wait lets more outcomes share a statement."""
MOMENT_S = 0.5
DRAIN_S = 5.0

INVOCATIONS = Counter(
    "webhost_gateway_invocations_total",
    "Admitted calls that ended: `succeeded`, `failed` (the agent or its runtime), `released` (it "
    "was not reached, and nothing is counted) or `unknown` (their gateway died)",
    ["outcome"],
)
_succeeded, _failed = INVOCATIONS.labels("succeeded"), INVOCATIONS.labels("failed")
_released = INVOCATIONS.labels("released")
_duration = Histogram(
    "webhost_gateway_worker_call_duration_seconds",
    "Wall time of calls to Workers, without what their callers let them wait",
    ["outcome"],
    buckets=CALL_S,
)
_durations = {outcome: _duration.labels(outcome) for outcome in ("succeeded", "failed")}


def finish(batch: list[Closing], gateway_id: str) -> tuple[str, dict[str, object]]:
    """Return the statement that closes these, and its parameters.

    Their facts wait in the usage outbox for this gateway to publish them.
    """
    return FINISH, {
        "closing": msgspec.json.encode(batch).decode(),
        "gateway_id": gateway_id,
        "ids": [item.id for item in batch],
        "users": list({item.user_id for item in batch}),
        "periods": list({item.period_key for item in batch}),
    }


class Outcomes:
    """Records outcomes, batched, behind the answers.

    `recorded` is called after each batch: its facts can be published.
    """

    def __init__(
        self, statements: Statements, lease: Lease, recorded: Callable[[], None] = lambda: None
    ) -> None:
        self._statements = statements
        self._lease = lease
        self._recorded = recorded
        # Both are bounded by the calls that were admitted.
        self._expected: set[str] = set()
        self._answers: dict[str, Recording] = {}
        self._batcher: Batcher[Closing | Invocation] = Batcher(
            self._handle, name="outcomes", linger_s=LINGER_S
        )
        self._flushing: asyncio.Future[None] | None = None
        self.run = self._batcher.run

    def expect(self, invocations: Iterable[Invocation]) -> None:
        """Take note of calls before they can be on record: their outcomes will come."""
        self._expected.update(invocation.id for invocation in invocations)

    def forget(self, invocation: Invocation) -> None:
        """Take note that a call was not put on record."""
        self._expected.discard(invocation.id)

    def expected(self, invocation: Invocation) -> bool:
        """Say whether the call is under way here, or its outcome on the way to its record."""
        return invocation.id in self._expected

    def record(
        self,
        invocation: Invocation,
        outcome: Outcome,
        at_ms: int,
        *,
        request_id: str | None,
        traceparent: str | None,
        answer: Recording | None = None,
    ) -> None:
        """Close the invocation with this outcome, and keep its answer if it is complete, soon."""
        (_succeeded if outcome.outcome == "succeeded" else _failed).inc()
        _durations[outcome.outcome].observe((outcome.wall_ms or 0) / 1000)
        if answer is not None and answer.complete:
            self._answers[invocation.id] = answer
        elif answer is not None:
            answer.release()
        self._batcher.add(
            closing(invocation, outcome, at_ms, request_id=request_id, traceparent=traceparent)
        )

    def release(self, invocation: Invocation) -> None:
        """Undo an admission, which may not have happened yet: the call was not made."""
        _released.inc()
        self._batcher.add(invocation)

    async def catch_up(self) -> None:
        """Record what is queued, within a bounded time."""
        # Not cancelled when it takes longer: what is under way must not be lost.
        self._flushing = asyncio.ensure_future(self._batcher.flush())
        await asyncio.wait({self._flushing}, timeout=MOMENT_S)

    async def close(self) -> None:
        """Record what is queued, at shutdown; whatever fails is finished when the lease ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._batcher.flush()

    async def _handle(self, batch: list[Closing | Invocation]) -> None:
        ended = [item for item in batch if isinstance(item, Closing)]
        released = [item for item in batch if isinstance(item, Invocation)]
        if ended:
            answers = [self._answers[item.id] for item in ended if item.id in self._answers]
            await self._until_done(lambda: [self._finish(ended, answers)])
            crash_point("gateway.recorded")
            self._recorded()
            for answer in answers:
                self._answers.pop(answer.invocation_id).release()
        if released:
            await self._until_done(lambda: self._release(released))
        self._expected.difference_update(item.id for item in batch)

    def _finish(
        self, ended: list[Closing], answers: list[Recording]
    ) -> tuple[str, dict[str, object]]:
        statement, parameters = finish(ended, self._lease.gateway_id)
        if not answers:
            return statement, parameters
        return FINISH_STORING, parameters | {
            "answered": [answer.invocation_id for answer in answers],
            "responses": [answer.sealed for answer in answers],
            "answered_at_ms": now_ms(),
        }

    def _release(self, released: list[Invocation]) -> list[tuple[str, dict[str, Any]]]:
        parameters = {
            "released": msgspec.json.encode(released).decode(),
            "gateway_id": self._lease.gateway_id,
            "ids": [invocation.id for invocation in released],
            "at_ms": now_ms(),
        }
        # Locked first: an admission under way has finished, or will find the closed rows.
        users = [invocation.user_id for invocation in released]
        return [(LOCK_QUOTAS, {"users": users}), (RELEASE, parameters)]

    async def _until_done(self, steps: Callable[[], list[tuple[str, dict[str, Any]]]]) -> None:
        while True:
            try:
                await self._statements.execute(*steps())
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)


LOCK_QUOTAS = """
SELECT FROM quotas WHERE user_id = ANY(%(users)s::text[])
ORDER BY user_id, period_key FOR UPDATE
"""

# `locked` comes before `closed` touches a row: who closes holds the quota's lock.
FINISH = """
WITH closing AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(closing)s::json) AS c(
        id text, finished_at_ms bigint, subject text, body text
    )
),
locked AS MATERIALIZED (
    SELECT user_id, period_key FROM quotas
    WHERE user_id = ANY(%(users)s::text[]) AND period_key = ANY(%(periods)s::text[])
    ORDER BY user_id, period_key
    FOR UPDATE
),
closed AS (
    UPDATE invocations i SET finished_at_ms = c.finished_at_ms
    FROM closing c CROSS JOIN (SELECT count(*) FROM locked) AS held
    WHERE i.id = ANY(%(ids)s::text[]) AND i.id = c.id AND i.finished_at_ms IS NULL
    RETURNING i.id, i.user_id, i.period_key, i.finished_at_ms, c.subject, c.body
),
freed AS (
    UPDATE quotas q SET in_flight = q.in_flight - c.n
    FROM (SELECT user_id, period_key, count(*) AS n FROM closed GROUP BY user_id, period_key) c
    WHERE q.user_id = ANY(%(users)s::text[])
        AND (q.user_id, q.period_key) = (c.user_id, c.period_key)
)
INSERT INTO usage_outbox (gateway_id, subject, body, oldest_ms)
SELECT %(gateway_id)s, subject, string_agg(body, ','), min(finished_at_ms)
FROM closed GROUP BY subject
"""

FINISH_STORING = FINISH.replace("freed AS", f"{idempotency.STORED}freed AS", 1)

RELEASE = """
WITH closed AS (
    UPDATE invocations SET finished_at_ms = %(at_ms)s
    WHERE id = ANY(%(ids)s::text[]) AND finished_at_ms IS NULL
    RETURNING user_id, period_key, key_id, key_period
),
freed AS (
    UPDATE quotas q SET requests = q.requests - c.n, in_flight = q.in_flight - c.n
    FROM (SELECT user_id, period_key, count(*) AS n FROM closed GROUP BY user_id, period_key) c
    WHERE (q.user_id, q.period_key) = (c.user_id, c.period_key)
),
freed_of_keys AS (
    UPDATE key_quotas q SET requests = q.requests - c.n
    FROM (
        SELECT key_id, key_period, count(*) AS n FROM closed
        WHERE key_period IS NOT NULL GROUP BY key_id, key_period
    ) c
    WHERE (q.key_id, q.period_key) = (c.key_id, c.key_period)
),
given_up AS (
    DELETE FROM idempotency
    WHERE invocation_id = ANY(%(ids)s::text[]) AND finished_at_ms IS NULL
)
INSERT INTO invocations (id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
    period_key, admitted_at_ms, gateway_id, finished_at_ms)
SELECT id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
    period_key, admitted_at_ms, %(gateway_id)s, %(at_ms)s
FROM json_to_recordset(%(released)s::json) AS r(
    id text, user_id text, agent_id text, deployment_id text, runtime_provider text,
    trace_id text, period_key text, admitted_at_ms bigint
)
ON CONFLICT (id) DO NOTHING
"""
