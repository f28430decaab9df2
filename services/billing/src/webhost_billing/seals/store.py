"""Seals: the periods that are closed, in the caller's transaction.

Consumes: one partition's rows of the live generation, at the position where a seal is due (see
`decisions`, which decides that). Emits: `period.sealed.v1` for each user with usage in a period,
and entries in the feed of what waits there.
Guarantees: the facts, their totals (`sealed_usage`) and the position are written in the transaction
of the fold that comes to it, once; memory does not grow with the number of users.
On replay: what was stated is not stated again. After a restore, what billing had stated is taken
back from its own facts, and the fold closes the period where they say.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import PeriodSealed
from webhost_contracts.events.period import SealedUsage
from webhost_contracts.periods import period_key
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.process.crashpoints import crash_point

from webhost_billing.feed import store as feed
from webhost_billing.model import UsageReport
from webhost_billing.periods import store as periods
from webhost_billing.periods.model import Period, close, evolve
from webhost_billing.periods.store import period_of
from webhost_billing.seals import statements
from webhost_billing.seals.decisions import ALWAYS, NEVER, Seal, Seals, StreamPlace
from webhost_billing.tables import COUNTERS, late_reports, partition_seals, sealed_usage

log = structlog.get_logger(__name__)

USERS_PER_STATEMENT = 500

_late = Counter(
    "webhost_billing_late_reports_total",
    "Reports that came after their period was sealed: they count nowhere",
)


async def load_place(
    connection: AsyncConnection, partition: int, stream_created_at: str
) -> StreamPlace:
    """Return how far a partition is, on the stream that was created then."""
    known = await _read(connection, partition)
    through = max([row.through for row in known if row.applied], default=NEVER)
    stated = tuple(
        Seal(partition, row.through, _sequence(row, stream_created_at))
        for row in known
        if not row.applied and row.through > through
    )
    return StreamPlace(partition, through, stated)


def closed(partition: int, through: str) -> Seals:
    """Return the seals for whoever folds into rows in which these periods are closed."""
    return Seals([Seal(partition, through, ALWAYS)])


async def applied(
    connection: AsyncConnection, stream_created_at: str, partition: int | None = None
) -> Seals:
    """Return the seals, all or a partition's, for whoever folds this stream from its beginning.

    A period that was closed on another stream is closed from the beginning of this one.
    """
    return Seals(
        Seal(row.partition, row.through, _sequence(row, stream_created_at))
        for row in await _read(connection, partition)
        if row.applied
    )


async def apply(
    connection: AsyncConnection, generation: int, seal: Seal, before: str, stream_created_at: str
) -> None:
    """Close a partition's periods behind `before` up to the seal, and state their totals, and in
    the feed what waits there of them.
    """
    crash_point("billing.sealing")
    stated = 0
    at = ("", "")
    while found := await _usage(connection, generation, seal, before, at):
        stated += await _state(connection, found, seal, stream_created_at)
        at = (found[-1].user_id, found[-1].period_key)
    await _record(connection, seal, stream_created_at, is_applied=True)
    await feed.state_sealed(connection, seal.partition, generation, seal.through)
    crash_point("billing.sealed")
    if stated:
        log.info("periods sealed", partition=seal.partition, through=seal.through, users=stated)


async def recover(connection: AsyncConnection, fact: Fact, event: PeriodSealed) -> None:
    """Take back a seal, which the database lacked after a restore."""
    envelope = fact.envelope
    period = await periods.load(connection, envelope.user_id, event.period_key)
    after = evolve(period, envelope, event)
    await periods.save(connection, [after])
    await _save_totals(connection, [after])
    seal = Seal(event.partition, event.period_key, event.sequence)
    await _record(connection, seal, event.stream_created_at, is_applied=False)


async def record_late(
    connection: AsyncConnection,
    partition: int,
    late: Sequence[UsageReport],
    facts: Iterable[Fact],
    stream_created_at: str,
    *,
    was_parked: bool,
) -> None:
    """Write down what came too late. What counted before the seal, and is only replayed, is not;
    what was parked before it did not count.
    """
    if not late:
        return
    sealed = await applied(connection, stream_created_at, partition)
    recorded = {(fact.sequence, fact.index): fact.recorded_at_ms for fact in facts}
    rows = [
        _late_row(report, recorded[report.sequence, report.index], stream_created_at)
        for report in late
        if was_parked
        or sealed.close(
            report.invocation.user_id, period_key(report.invocation.at_ms), report.sequence
        )
    ]
    if rows:
        await connection.execute(insert(late_reports).on_conflict_do_nothing(), rows)
        _late.inc(len(rows))


async def _usage(
    connection: AsyncConnection, generation: int, seal: Seal, before: str, at: tuple[str, str]
) -> Sequence[Any]:
    """Return the rows of the next users, in order, with what was stated about each period."""
    found = await connection.execute(
        statements.TO_SEAL,
        {
            "generation": generation,
            "partition": seal.partition,
            "before": before,
            "through": seal.through,
            "user": at[0],
            "period": at[1],
            "most": USERS_PER_STATEMENT,
        },
    )
    return found.all()


async def _state(
    connection: AsyncConnection, rows: Sequence[Any], at: Seal, stream_created_at: str
) -> int:
    """State the seals of these periods; return how many there were."""
    decided: list[tuple[Period, Sequence[PeriodSealed]]] = []
    for _, of_period in groupby(rows, key=lambda row: (row.user_id, row.period_key)):
        usage = list(of_period)
        if usage[0].sealed_at_sequence is None:
            totals = {row.runtime_provider: _totals(row) for row in usage}
            period = period_of(usage[0])
            decided.append((period, close(period, totals, at, stream_created_at)))
    sealed = await periods.append(connection, decided)
    await _save_totals(connection, sealed)
    return len(sealed)


async def _save_totals(connection: AsyncConnection, sealed: Sequence[Period]) -> None:
    """Write what periods were sealed with."""
    if not sealed:
        return
    await connection.execute(
        insert(sealed_usage).on_conflict_do_nothing(),
        [
            {
                "partition": seal.partition,
                "user_id": period.user_id,
                "period_key": period.period_key,
                "runtime_provider": runtime,
                "invocations": usage.invocations,
                "updated_at_ms": usage.updated_at_ms,
                **{name: getattr(usage, name) for name in COUNTERS},
            }
            for period in sealed
            if (seal := period.seal) is not None
            for runtime, usage in seal.by_runtime.items()
        ],
    )


async def _record(
    connection: AsyncConnection, seal: Seal, stream_created_at: str, *, is_applied: bool
) -> None:
    statement = insert(partition_seals).values(
        partition=seal.partition,
        through=seal.through,
        sequence=seal.sequence,
        stream_created_at=stream_created_at,
        applied=is_applied,
    )
    # What the fold comes to takes the place of what was taken back, at the same position.
    if is_applied:
        changed = {
            name: statement.excluded[name] for name in ("sequence", "stream_created_at", "applied")
        }
        statement = statement.on_conflict_do_update(
            index_elements=["partition", "through"], set_=changed
        )
    else:
        statement = statement.on_conflict_do_nothing()
    await connection.execute(statement)


async def _read(connection: AsyncConnection, partition: int | None = None) -> Sequence[Any]:
    query = sa.select(partition_seals).order_by(partition_seals.c.through)
    if partition is not None:
        query = query.where(partition_seals.c.partition == partition)
    return (await connection.execute(query)).all()


def _sequence(row: Any, stream_created_at: str) -> int:
    return row.sequence if row.stream_created_at == stream_created_at else ALWAYS


def _totals(row: Any) -> SealedUsage:
    return SealedUsage(
        invocations=row.invocations,
        updated_at_ms=row.updated_at_ms,
        **{name: int(getattr(row, name)) for name in COUNTERS},
    )


def _late_row(report: UsageReport, recorded_at_ms: int, stream_created_at: str) -> dict[str, Any]:
    invocation = report.invocation
    gateway, worker = invocation.gateway, invocation.worker
    identifier = gateway.invocation_id if gateway else (worker.event_id if worker else None)
    return {
        "stream_created_at": stream_created_at,
        "sequence": report.sequence,
        "index": report.index,
        "recorded_at_ms": recorded_at_ms,
        "user_id": invocation.user_id,
        "agent_id": invocation.agent_id,
        "deployment_id": invocation.deployment_id,
        "period_key": period_key(invocation.at_ms),
        "at_ms": invocation.at_ms,
        "source": invocation.source,
        "id": identifier,
        "requests": worker.requests if worker else 1,
        "llm_tokens": worker.llm_tokens if worker else 0,
        "compute_ms": worker.compute_ms if worker else (gateway and gateway.wall_ms) or 0,
    }
