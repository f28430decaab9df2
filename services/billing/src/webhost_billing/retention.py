"""Removes what is kept no longer.

Consumes: billing's own rows. Emits: nothing.
Guarantees: raw events are kept for the `telemetryDays` of the tier that their user has when this
runs, an unknown tier counting as `free`; what is known of single invocations until every partition
has closed their period; minutes and hours of series for a day longer than they can be read; late
reports for LATE_DAYS, and at most LATE_KEPT of them. Usage, days and seals stay. All is removed in
short transactions.
On replay (a kill in the middle): what is left goes in the next pass.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
import structlog
from webhost_contracts import subjects
from webhost_contracts.buckets import KEPT_DAYS, kept_from
from webhost_contracts.entitlements import DEFAULT_TIER, Entitlements
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.periodic import every

from webhost_billing import statements
from webhost_billing.seals import statements as seal_statements
from webhost_billing.tables import generations, invocations, usage_events

log = structlog.get_logger(__name__)

EVERY_S = 3_600.0
CHUNK = 10_000
PAGES = 500
"""How much of a table, in pages of 8 KiB, one transaction goes through."""
DAY_MS = 24 * 3_600_000
LATE_DAYS = 90
LATE_KEPT = 100_000


class Retention:
    """Removes old rows, in one process at a time."""

    def __init__(self, database: Database, tiers: Mapping[str, Entitlements]) -> None:
        self._database = database
        self._tiers = tiers

    async def run(self) -> None:
        """Remove as long as the process lives."""
        await every(EVERY_S, self.once, "usage retention", alone_at=self._database)

    async def once(self) -> None:
        """Remove what is past its retention now. Raises Unavailable."""
        await self.forget_invocations()
        await self.remove_old()
        await self._remove_late_reports()

    async def forget_invocations(self) -> int:
        """Remove what is known of invocations of closed periods; return how many there were."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                seal_statements.TO_FORGET, {"partitions": subjects.PARTITIONS}
            )
            row = found.one_or_none()
        if row is None:
            return 0
        removed = await self._walk(
            invocations, seal_statements.FORGET, live=row.live, through=row.through
        )
        done = generations.update().where(generations.c.live == row.live)
        async with self._database.transaction() as connection:
            await connection.execute(done.values(forgotten_through=row.through))
        log.info("invocations forgotten", through=row.through, rows=removed)
        return removed

    async def remove_old(self) -> None:
        """Remove what is past its retention in every generation. Raises Unavailable."""
        await self._remove_events()
        await self._remove_series()

    async def _remove_events(self) -> None:
        days = {name: tier.telemetry_days for name, tier in self._tiers.items()}
        removed = await self._walk(
            usage_events,
            seal_statements.REMOVE_OLD_EVENTS,
            now=now_ms(),
            least=min(days.values()),
            default=days[DEFAULT_TIER],
            tiers=list(days),
            days=list(days.values()),
        )
        if removed:
            log.info("usage events removed", rows=removed)

    async def _remove_series(self) -> None:
        now = now_ms()
        for bucket in KEPT_DAYS:
            removed = CHUNK
            while removed == CHUNK:
                async with self._database.transaction() as connection:
                    result = await connection.execute(
                        statements.REMOVE_OLD_SERIES,
                        {"bucket": bucket, "before": kept_from(bucket, now), "most": CHUNK},
                    )
                    removed = result.rowcount

    async def _remove_late_reports(self) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                seal_statements.REMOVE_OLD_LATE_REPORTS,
                {"before": now_ms() - LATE_DAYS * DAY_MS, "most": LATE_KEPT},
            )

    async def _walk(self, table: sa.Table, statement: sa.TextClause, **parameters: Any) -> int:
        """Execute a statement on one range of the table's pages after the other."""
        async with self._database.transaction() as connection:
            size = await connection.scalar(seal_statements.PAGES, {"table": table.name})
        removed = 0
        for first in range(0, size or 0, PAGES):
            pages = {"first": f"({first},0)", "end": f"({first + PAGES},0)"}
            async with self._database.transaction() as connection:
                result = await connection.execute(statement, {**parameters, **pages})
                removed += result.rowcount
        return removed
