"""Removes from the history what is older than its user's tier keeps.

Consumes: the api's own rows. Emits: nothing.
Guarantees: audit entries are kept for the tier's `telemetryDays`, the other rows for its `logDays`,
by the tier that the user has when this runs. Each row past the shortest of these is visited once a
run, and removed in transactions of at most BATCH.
On replay (a kill in the middle): what is left goes in the next run.
"""

import sqlalchemy as sa
import structlog
from prometheus_client import Counter
from webhost_contracts.entitlements import known_tier
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.periodic import every

from webhost_api.handlers import Tiers
from webhost_api.history import is_past, logs_since
from webhost_api.tables import accounts, history

log = structlog.get_logger(__name__)

BATCH = 1_000

_removed = Counter(
    "webhost_api_history_rows_removed_total",
    "Rows of the history and the audit that were removed, past their retention",
)


class Retention:
    """Removes old rows every `every_s` seconds, in one process at a time."""

    def __init__(self, database: Database, tiers: Tiers, *, every_s: float) -> None:
        self._database = database
        self._tiers = tiers
        self._every_s = every_s

    async def run(self) -> None:
        """Remove as long as the process lives."""
        await every(self._every_s, self.once, "history retention", alone_at=self._database)

    async def once(self) -> int:
        """Remove what is past its retention now; return how many rows. Raises Unavailable."""
        now = now_ms()
        removed, place = 0, (0, "")
        while (page := await self._page(place, now)) is not None:
            count, place = page
            removed += count
        if removed:
            _removed.inc(removed)
            log.info("history removed", rows=removed)
        return removed

    async def _page(self, place: tuple[int, str], now: int) -> tuple[int, tuple[int, str]] | None:
        """Remove from the next rows; return how many went, and the last of those rows."""
        before = max(logs_since(tier, now) for tier in self._tiers.values())
        query = (
            sa.select(history.c.event_id, history.c.at_ms, history.c.action, accounts.c.tier)
            .outerjoin(accounts, accounts.c.user_id == history.c.user_id)
            .where(
                history.c.at_ms < before,
                sa.tuple_(history.c.at_ms, history.c.event_id) > sa.tuple_(*place),
            )
            .order_by(history.c.at_ms, history.c.event_id)
            .limit(BATCH)
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
            past = [
                row.event_id
                for row in rows
                if is_past(
                    row.action, row.at_ms, self._tiers[known_tier(self._tiers, row.tier)], now
                )
            ]
            if past:
                await connection.execute(sa.delete(history).where(history.c.event_id.in_(past)))
        return (len(past), (rows[-1].at_ms, rows[-1].event_id)) if rows else None
