"""Totals: what counts against the budgets, put where the gateways watch it.

Consumes: the rows noted in `totals_due` by whoever changed usage, in that transaction.
Emits: absolute totals into the totals bucket, with the generation and checkpoint they are from.
Guarantees: every change is put, however often this process or the bus dies; one replica puts at
a time, so that what it puts never gets older.
On replay (at start): all totals of the current period are put again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from nats.errors import Error as NatsError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects, wire
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database

from webhost_billing import projection

log = structlog.get_logger(__name__)

MOST = 500
IDLE_S = 1.0
RETRY_S = 0.5
PUT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Due:
    user_id: str
    period_key: str
    totals: Totals


class TotalsPublisher:
    """Puts what is due for as long as it runs."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._wake = asyncio.Event()

    async def wake(self) -> None:
        """Look at once: something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Put for ever; a broken dependency is waited for."""
        while True:
            try:
                await self._hold_lock_and_put()
            except (DBAPIError, NatsError, OSError, TimeoutError) as error:
                log.warning("totals not put; trying again", error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _hold_lock_and_put(self) -> None:
        async with self._database.engine.connect() as connection:
            try:
                while not await _lock(connection):  # noqa: ASYNC110 - held by another process
                    await asyncio.sleep(IDLE_S)
                async with connection.begin():
                    await connection.execute(_ALL_DUE, {"period": period_key(now_ms())})
                while True:
                    self._wake.clear()
                    while due := await _due(connection):
                        await self._put(due)
                        await _done(connection, due)
                    await self._woken()
            finally:
                # The lock goes with its connection, which must not return to the pool.
                await connection.invalidate()

    async def _put(self, due: Sequence[_Due]) -> None:
        await asyncio.gather(
            *(
                self._bus.js.publish(
                    f"$KV.{subjects.TOTALS_BUCKET}."
                    + subjects.totals_key(one.user_id, one.period_key),
                    wire.encode(one.totals),
                    timeout=PUT_TIMEOUT_S,
                )
                for one in due
            )
        )

    async def _woken(self) -> None:
        # Also without a wake: the replica that folds may be another one.
        try:
            async with asyncio.timeout(IDLE_S):
                await self._wake.wait()
        except TimeoutError:
            return


async def _lock(connection: AsyncConnection) -> bool:
    async with connection.begin():
        return bool((await connection.execute(_LOCK)).scalar_one())


async def _due(connection: AsyncConnection) -> list[_Due]:
    """Return what is due, with totals, generation and checkpoint of one snapshot."""
    async with connection.begin():
        found = await connection.execute(_READ_DUE, {"name": projection.NAME, "most": MOST})
        return [
            _Due(
                row.user_id,
                row.period_key,
                Totals(
                    tokens=int(row.tokens),
                    compute_ms=int(row.compute_ms),
                    generation=row.live,
                    checkpoint=row.checkpoint,
                ),
            )
            for row in found
        ]


async def _done(connection: AsyncConnection, due: Sequence[_Due]) -> None:
    """Forget what was put, unless it changed meanwhile."""
    async with connection.begin():
        await connection.execute(
            _FORGET,
            {
                "users": [one.user_id for one in due],
                "periods": [one.period_key for one in due],
                "generation": due[0].totals.generation,
                "checkpoint": due[0].totals.checkpoint,
            },
        )


_LOCK = sa.text(
    "SELECT pg_try_advisory_lock(hashtext('billing totals'), hashtext(current_schema()))"
)
_ALL_DUE = sa.text(
    """
    INSERT INTO totals_due (user_id, period_key, generation, sequence)
    SELECT DISTINCT user_id, period_key, 0, 0 FROM billing_usage
    WHERE generation = (SELECT live FROM generations WHERE scope = 'all')
        AND period_key >= :period
    ON CONFLICT DO NOTHING
    """
)
_READ_DUE = sa.text(
    """
    SELECT d.user_id, d.period_key, g.live,
        coalesce((SELECT sequence FROM checkpoints WHERE name = :name), 0) AS checkpoint,
        coalesce(sum(u.llm_tokens), 0) AS tokens, coalesce(sum(u.compute_ms), 0) AS compute_ms
    FROM (SELECT user_id, period_key FROM totals_due LIMIT :most) d
    JOIN generations g ON g.scope = 'all'
    LEFT JOIN billing_usage u ON (u.generation, u.user_id, u.period_key)
        = (g.live, d.user_id, d.period_key)
    GROUP BY d.user_id, d.period_key, g.live
    """
)
_FORGET = sa.text(
    """
    DELETE FROM totals_due t
    USING unnest(CAST(:users AS text[]), CAST(:periods AS text[])) AS put (user_id, period_key)
    WHERE (t.user_id, t.period_key) = (put.user_id, put.period_key)
        AND (t.generation, t.sequence) <= (:generation, :checkpoint)
    """
)
