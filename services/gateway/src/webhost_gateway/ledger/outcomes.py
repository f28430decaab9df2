"""Outcomes: what became of an admitted call, recorded once and stated as a fact.

Emits: `invocation.finished.v1` on USAGE, one per invocation, through the outbox, in the
statement that closes the invocation's row and frees its place in the concurrency limit.
Guarantees: only an open row gets an outcome, so a second try changes nothing; a call of which
no byte was written leaves no row, no count and no fact. Outcomes of a moment share a statement,
and are kept until the database has taken them.
"""

import asyncio
from contextlib import suppress

import msgspec
from prometheus_client import Counter
from webhost_contracts import subjects
from webhost_contracts.events import InvocationFinished
from webhost_kit.errors import Unavailable

from webhost_gateway.ledger.batcher import Batcher
from webhost_gateway.ledger.records import Closing, Invocation, Outcome, closing
from webhost_gateway.ledger.statements import Statements

RETRY_S = 0.5
LINGER_S = 0.005
"""Nobody waits for an outcome: a few more of them share its statement."""
MOMENT_S = 0.5
DRAIN_S = 5.0

_finished = Counter("webhost_gateway_invocations_total", "Invocations recorded", ["outcome"])


def finish(batch: list[Closing]) -> tuple[str, dict[str, object]]:
    """Return the statement that closes these, and its parameters."""
    return FINISH, {
        "closing": msgspec.json.encode(batch).decode(),
        "headers": msgspec.json.encode(
            {subjects.TYPE_HEADER: InvocationFinished.type_name()}
        ).decode(),
        "ids": [item.id for item in batch],
        "users": list({item.user_id for item in batch}),
        "periods": list({item.period_key for item in batch}),
    }


class Outcomes:
    """Records outcomes, batched, behind the answers: nobody waits for them."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._batcher: Batcher[Closing | Invocation] = Batcher(self._handle, linger_s=LINGER_S)
        self._flushing: asyncio.Future[None] | None = None
        self.run = self._batcher.run

    def record(
        self,
        invocation: Invocation,
        outcome: Outcome,
        at_ms: int,
        *,
        request_id: str | None,
        traceparent: str | None,
    ) -> None:
        """Close the invocation with this outcome, soon."""
        _finished.labels(outcome.outcome).inc()
        self._batcher.add(
            closing(invocation, outcome, at_ms, request_id=request_id, traceparent=traceparent)
        )

    def release(self, invocation: Invocation) -> None:
        """Undo an admission, which may not have happened: the call was not made."""
        _finished.labels("released").inc()
        self._batcher.add(invocation)

    async def catch_up(self) -> None:
        """Record what waits, within a moment."""
        # Not cancelled when it takes longer: what is under way must not be lost.
        self._flushing = asyncio.ensure_future(self._batcher.flush())
        await asyncio.wait({self._flushing}, timeout=MOMENT_S)

    async def close(self) -> None:
        """Record what waits, at an orderly end. What cannot be recorded, the lease's end does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._batcher.flush()

    async def _handle(self, batch: list[Closing | Invocation]) -> None:
        ended = [item for item in batch if isinstance(item, Closing)]
        undone = [item.id for item in batch if isinstance(item, Invocation)]
        if ended:
            await self._until_done(finish(ended))
        if undone:
            users = [item.user_id for item in batch if isinstance(item, Invocation)]
            # Locked first: an admission of unknown outcome may still be on its way.
            await self._until_done((LOCK_QUOTAS, {"users": users}), (RELEASE, {"ids": undone}))

    async def _until_done(self, *steps: tuple[str, dict[str, object]]) -> None:
        while True:
            try:
                await self._statements.execute(*steps)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)


LOCK_QUOTAS = """
SELECT FROM quotas WHERE user_id = ANY(%(users)s::text[])
ORDER BY user_id, period_key FOR UPDATE
"""

# `locked` comes before `closed` touches a row: whoever closes holds the quota's lock.
FINISH = """
WITH closing AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(closing)s::json) AS c(
        id text, finished_at_ms bigint, subject text, message_id text, body text
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
    RETURNING i.id, i.user_id, i.period_key, c.subject, c.message_id, c.body
),
freed AS (
    UPDATE quotas q SET in_flight = q.in_flight - c.n
    FROM (SELECT user_id, period_key, count(*) AS n FROM closed GROUP BY user_id, period_key) c
    WHERE q.user_id = ANY(%(users)s::text[])
        AND (q.user_id, q.period_key) = (c.user_id, c.period_key)
)
INSERT INTO outbox (ordering_key, subject, message_id, headers, body)
SELECT id, subject, message_id, %(headers)s::jsonb, convert_to(body, 'UTF8') FROM closed
"""

RELEASE = """
WITH gone AS (
    DELETE FROM invocations WHERE id = ANY(%(ids)s::text[]) AND finished_at_ms IS NULL
    RETURNING user_id, period_key
)
UPDATE quotas q SET requests = q.requests - g.n, in_flight = q.in_flight - g.n
FROM (SELECT user_id, period_key, count(*) AS n FROM gone GROUP BY user_id, period_key) g
WHERE (q.user_id, q.period_key) = (g.user_id, g.period_key)
"""
