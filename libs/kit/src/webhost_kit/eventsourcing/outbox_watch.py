"""How much waits in the outbox, and for how long: as every replica sees it, whoever relays.

It looks at the table itself, so that it also sees what waits while nobody relays.
"""

import asyncio

import sqlalchemy as sa
from webhost_contracts import ids

from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.outbox import outbox
from webhost_kit.process.metrics import ReadGauge

POLL_INTERVAL_S = 5.0
COUNTED = 10_000

_waiting = ReadGauge(
    "webhost_outbox_rows_waiting",
    f"Facts and commands that no stream has acknowledged yet, counted up to {COUNTED:,}",
)
_oldest = ReadGauge(
    "webhost_outbox_oldest_age_seconds",
    "Age of the oldest fact or command that no stream has acknowledged, 0 where nothing waits",
)

_some = sa.select(outbox.c.serial).limit(COUNTED).subquery()
_count = sa.select(sa.func.count()).select_from(_some)
_first = sa.select(outbox.c.message_id).order_by(outbox.c.serial).limit(1)


class OutboxWatch:
    """Looks as long as it runs; while the database is away, what was seen last holds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting = 0
        self._oldest_ms: int | None = None
        _waiting.read(lambda: self._waiting)
        _oldest.read(self._age_s)

    async def run(self) -> None:
        """Look without end."""
        while True:
            try:
                async with self._database.transaction() as connection:
                    first = (await connection.execute(_first)).scalar_one_or_none()
                    waiting = (await connection.execute(_count)).scalar_one() if first else 0
                self._waiting = waiting
                self._oldest_ms = None if first is None else ids.made_at_ms(first)
            except Unavailable:
                pass
            await asyncio.sleep(POLL_INTERVAL_S)

    def _age_s(self) -> float:
        return 0.0 if self._oldest_ms is None else max(now_ms() - self._oldest_ms, 0) / 1000
