"""Totals: what counts against the budgets, published where the gateways watch it.

Consumes: the rows noted in `totals_due` by what changed usage, in that transaction.
Emits: absolute totals of one partition's users into the totals bucket, with the generation and
the sequence of the fold that they are from.
Guarantees: every change is put, however often this process or the bus dies, and nothing is replaced
by what was read before it was there. The process that folds a partition puts its totals, but one
that stood still while another one folded may put what it read long ago. So whoever puts names the
place of what it replaces, as it knew it before it read: where somebody else has put something since
then it is refused, and reads again.
On replay (whenever a partition is taken, or the bucket was made anew): its totals of the current
period are put again.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from nats.errors import Error as NatsError
from nats.js.api import Header
from nats.js.errors import APIError
from webhost_contracts import subjects, wire
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.process.crashpoints import crash_point

from webhost_billing import statements

log = structlog.get_logger(__name__)

KNOWN = 50_000
"""Of so many totals a process knows the place. Of another one it learns it when it is refused."""
_WRONG_SEQUENCE = 10071
_IS_AT = re.compile(r"wrong last sequence: (\d+)")

MOST = 500
RETRY_S = 0.5
PUT_TIMEOUT_S = 5.0
REBUILT_S = 5.0
"""How soon totals changed by another process's rebuild are published."""


@dataclass(frozen=True)
class _Due:
    user_id: str
    period_key: str
    noted: str
    totals: Totals


class TotalsPublisher:
    """Publishes one partition's totals while it runs; `checkpoint` is its projection's name."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        streams: StreamWatch,
        partition: int,
        checkpoint: str,
    ) -> None:
        self._database = database
        self._bus = bus
        self._streams = streams
        self._partition = partition
        self._checkpoint = checkpoint
        self._wake = asyncio.Event()
        self._places: dict[str, int] = {}

    async def wake(self) -> None:
        """Check for due totals now: something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled; wait for a broken dependency."""
        while True:
            try:
                await self._put_current()
            except (Unavailable, NatsError, OSError, TimeoutError) as error:
                log.warning("totals not published; trying again", error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _put_current(self) -> None:
        """Put what is current, then what becomes due, until the bucket is another one."""
        times_new = self._streams.times_new(subjects.TOTALS_STREAM)
        async with self._database.transaction() as connection:
            await connection.execute(
                statements.CURRENT_ARE_DUE,
                {"partition": self._partition, "period": period_key(now_ms())},
            )
        while self._streams.times_new(subjects.TOTALS_STREAM) == times_new:
            self._wake.clear()
            while due := await self._due():
                crash_point("billing.totals_read")
                put = await self._put(due)
                await self._no_longer_due(put)
            try:
                async with asyncio.timeout(REBUILT_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _due(self) -> list[_Due]:
        """Return what is due, with totals, generation and sequence of one snapshot."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                statements.READ_DUE,
                {"partition": self._partition, "checkpoint": self._checkpoint, "most": MOST},
            )
            return [
                _Due(
                    row.user_id,
                    row.period_key,
                    row.noted,
                    Totals(
                        tokens=int(row.tokens),
                        compute_ms=int(row.compute_ms),
                        requests=int(row.requests),
                        generation=row.live,
                        correction=row.corrections,
                        epoch=row.epoch,
                        sequence=row.sequence,
                    ),
                )
                for row in found
            ]

    async def _put(self, due: Sequence[_Due]) -> Sequence[_Due]:
        """Return those that were put; of the others something was put since they were read."""
        if len(self._places) > KNOWN:
            self._places.clear()
        put = await asyncio.gather(*map(self._put_one, due))
        return [one for one, was_put in zip(due, put, strict=True) if was_put]

    async def _put_one(self, one: _Due) -> bool:
        key = subjects.totals_key(one.user_id, one.period_key)
        place = str(self._places.get(key, 0))
        try:
            stored = await self._bus.js.publish(
                f"$KV.{subjects.TOTALS_BUCKET}.{key}",
                wire.encode(one.totals),
                timeout=PUT_TIMEOUT_S,
                headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: place},
            )
        except APIError as error:
            found = _IS_AT.search(error.description or "")
            if error.err_code != _WRONG_SEQUENCE or found is None:
                raise
            self._places[key] = int(found[1])
            return False
        self._places[key] = stored.seq
        return True

    async def _no_longer_due(self, due: Sequence[_Due]) -> None:
        """Remove what was published, unless it changed in the meantime."""
        async with self._database.transaction() as connection:
            await connection.execute(
                statements.NO_LONGER_DUE,
                {
                    "partition": self._partition,
                    "users": [one.user_id for one in due],
                    "periods": [one.period_key for one in due],
                    "noted": [one.noted for one in due],
                },
            )
