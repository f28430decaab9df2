"""What an operator may ask about usage: whether it holds together, and what came too late.

Consumes: billing's rows as of one moment, and what the stream says of itself. Emits: nothing.
Guarantees: changes nothing, and holds nothing up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.buckets import KEPT_DAYS, readable_from
from webhost_contracts.periods import day_key
from webhost_contracts.usage_rpc import (
    LateReport,
    LateReportsReply,
    LateReportsRequest,
    VerifyReply,
    VerifyRequest,
)
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, StreamMissing
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.projector import Projector

from webhost_billing import generations
from webhost_billing.partitions import checkpoint_name
from webhost_billing.rebuild import statements as rebuild_statements
from webhost_billing.rebuild.scope import Scope
from webhost_billing.seals import statements as seal_statements
from webhost_billing.seals.decisions import open_from_ms
from webhost_billing.tables import COUNTERS, late_reports

MOST_PROBLEMS = 200
MOST_REPORTS = 1_000


class Inspection:
    """Answers what an operator asks."""

    def __init__(self, database: Database, bus: Bus, projectors: Mapping[int, Projector]) -> None:
        self._database = database
        self._bus = bus
        self._projectors = projectors

    async def verify(self, request: VerifyRequest) -> VerifyReply:
        """Compare seals, invocations, series and checkpoints with usage and the stream."""
        problems: list[str] = []
        async with self._database.snapshot() as connection:
            live = await generations.live(connection)
            problems += await _unlike_seals(connection, live)
            problems += await _unlike_parts(connection, live)
            problems += await _unlike_buckets(connection, live)
            problems += await _lost_seals(connection)
            problems += await self._misplaced(connection)
            [counted] = await connection.execute(seal_statements.COUNTED, {"live": live})
        return VerifyReply(
            problems=tuple(problems[:MOST_PROBLEMS]),
            left_out=max(len(problems) - MOST_PROBLEMS, 0),
            sealed=counted.sealed,
            rows=counted.rows,
            invocations=counted.invocations,
        )

    async def late_reports(self, request: LateReportsRequest) -> LateReportsReply:
        """Return the reports that came behind their period's seal, newest first."""
        table = late_reports.c
        query = sa.select(late_reports).order_by(
            table.recorded_at_ms.desc(), table.sequence.desc(), table.index.desc()
        )
        if request.user_id is not None:
            query = query.where(table.user_id == request.user_id)
        async with self._database.transaction() as connection:
            found = await connection.execute(query.limit(min(request.limit, MOST_REPORTS)))
            return LateReportsReply(reports=tuple(_late_report(row) for row in found))

    async def _misplaced(self, connection: AsyncConnection) -> list[str]:
        """Say which checkpoints and seals are not where the stream has something for them."""
        problems: list[str] = []
        created_at = str((await self._bus.js.stream_info(subjects.USAGE)).created)
        positions: dict[int, int] = {}
        for partition in range(subjects.PARTITIONS):
            checkpoint = await read_checkpoint(connection, checkpoint_name(partition))
            positions[partition] = checkpoint.sequence if checkpoint else 0
            try:
                await self._projectors[partition].verify(checkpoint)
            except (StreamDiverged, StreamMissing) as error:
                problems.append(f"partition {partition}: {error}")
        found = await connection.execute(
            seal_statements.SEALS_OF_STREAM, {"created_at": created_at}
        )
        problems += [
            f"partition {row.partition} is closed through {row.through} at {row.sequence}, and"
            f" folded up to {positions[row.partition]}"
            for row in found
            if row.sequence > positions[row.partition]
        ]
        return problems


async def _unlike_seals(connection: AsyncConnection, live: int) -> list[str]:
    found = await connection.execute(
        rebuild_statements.UNLIKE_SEALS,
        {**Scope().parameters(), "generation": live, "most": MOST_PROBLEMS + 1},
    )
    return [_unlike(_row(row), row, "sealed with", "live", "usage has", "new") for row in found]


async def _unlike_parts(connection: AsyncConnection, live: int) -> list[str]:
    """Say where usage of open periods is not the sum of its invocations, or of its days."""
    closed = await connection.scalar(
        rebuild_statements.CLOSED_EVERYWHERE, {"partitions": subjects.PARTITIONS}
    )
    since = {"closed": closed, "closed_ms": open_from_ms(str(closed))}
    problems: list[str] = []
    for statement, parts in (
        (seal_statements.UNLIKE_INVOCATIONS, "its invocations come to"),
        (seal_statements.UNLIKE_DAYS, "its days come to"),
    ):
        found = await connection.execute(
            statement, {"live": live, "most": MOST_PROBLEMS + 1, **since}
        )
        problems += [_unlike(_row(row), row, "usage has", "live", parts, "new") for row in found]
    return problems


async def _unlike_buckets(connection: AsyncConnection, live: int) -> list[str]:
    """Say where a day is not the sum of its hours, or of its minutes, as far back as these are
    complete.
    """
    problems: list[str] = []
    now = now_ms()
    for bucket in KEPT_DAYS:
        since = {"bucket": bucket, "from_ms": readable_from(bucket, now)}
        found = await connection.execute(
            seal_statements.UNLIKE_BUCKETS, {"live": live, "most": MOST_PROBLEMS + 1, **since}
        )
        parts = f"its {bucket}s come to"
        problems += [_unlike(_day(row), row, "the day has", "live", parts, "new") for row in found]
    return problems


async def _lost_seals(connection: AsyncConnection) -> list[str]:
    found = await connection.execute(seal_statements.LOST_SEALS, {"most": MOST_PROBLEMS + 1})
    return [f"{row.aggregate_id} was stated to be sealed, and is not" for row in found]


def _row(row: Any) -> str:
    return f"{row.user_id} {row.period_key} {row.runtime_provider}"


def _day(row: Any) -> str:
    day = day_key(row.start_ms)
    return f"{row.user_id} {row.agent_id} {row.deployment_id} {day} {row.runtime_provider}"


def _unlike(where: str, row: Any, first: str, left: str, second: str, right: str) -> str:
    sides = {side: _side(row, side) for side in (left, right)}
    if not sides[left] or not sides[right]:
        there = {side: "nothing" if not sides[side] else "a row" for side in sides}
        return f"{where}: {first} {there[left]}, {second} {there[right]}"
    told: Sequence[str] = [
        f"{name} {sides[left][name]}, {second} {sides[right][name]}"
        for name in COUNTERS
        if sides[left][name] != sides[right][name]
    ]
    return f"{where}: {first} " + ("; ".join(told) or "another count or time of change")


def _side(row: Any, side: str) -> dict[str, int]:
    if getattr(row, f"{side}_requests") is None:
        return {}
    return {name: int(getattr(row, f"{side}_{name}")) for name in COUNTERS}


def _late_report(row: Any) -> LateReport:
    return LateReport(
        user_id=row.user_id,
        agent_id=row.agent_id,
        deployment_id=row.deployment_id,
        period_key=row.period_key,
        timestamp_ms=row.at_ms,
        recorded_at_ms=row.recorded_at_ms,
        source=row.source,
        id=row.id,
        requests=row.requests,
        llm_tokens=row.llm_tokens,
        compute_ms=row.compute_ms,
    )
