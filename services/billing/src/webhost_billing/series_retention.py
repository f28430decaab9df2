"""Removes minutes and hours that can no longer be read; days stay.

Consumes: the rows of all generations. Emits: nothing.
Guarantees: one process at a time; each transaction removes at most CHUNK rows.
On replay (a kill in the middle): what is left goes the next time.
"""

from webhost_contracts.buckets import KEPT_DAYS, kept_from
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.periodic import every

from webhost_billing.statements import REMOVE_OLD_SERIES

CHUNK = 10_000
EVERY_S = 3600.0


class SeriesRetention:
    """Removes old rows from time to time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Remove as long as the process lives."""
        await every(EVERY_S, self.once, "series retention", alone_at=self._database)

    async def once(self) -> None:
        """Remove what is past its retention now. Raises Unavailable."""
        now = now_ms()
        for bucket in KEPT_DAYS:
            removed = CHUNK
            while removed == CHUNK:
                async with self._database.transaction() as connection:
                    result = await connection.execute(
                        REMOVE_OLD_SERIES,
                        {"bucket": bucket, "before": kept_from(bucket, now), "most": CHUNK},
                    )
                    removed = result.rowcount
