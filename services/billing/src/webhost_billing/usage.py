"""The rows of one generation of usage: a batch folded into them, in the caller's transaction.

Consumes: decoded facts of USAGE. Emits: nothing.
Guarantees: at most one statement per table and batch; rebuilt and live rows are made by one code.
On replay: a side that was known already changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import astuple
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.buckets import BUCKETS, kept_from
from webhost_kit.clock import now_ms
from webhost_kit.database.rows import of_bytes
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing import statements
from webhost_billing.charging import Charge, Rules, UsageRow
from webhost_billing.counters import counters_of
from webhost_billing.folding import Changes, Charged, fold
from webhost_billing.model import (
    GatewaySide,
    Invocation,
    UsageReport,
    WorkerSide,
    usage_report_of,
)
from webhost_billing.seals.decisions import NO_SEALS, Seals


def usage_reports(facts: Iterable[Fact]) -> list[UsageReport]:
    """Return what these facts report."""
    reports: list[UsageReport] = []
    stream_ms = 0
    for fact in facts:
        stream_ms = max(stream_ms, fact.recorded_at_ms)
        reports.append(
            usage_report_of(fact.envelope, fact.event, fact.sequence, fact.index, stream_ms)
        )
    return reports


async def fold_into(
    connection: AsyncConnection,
    generation: int,
    reports: Sequence[UsageReport],
    rules: Rules,
    seals: Seals = NO_SEALS,
) -> Changes:
    """Fold these reports into this generation; return what that changed."""
    known = await _known(connection, generation, {report.key for report in reports})
    changes = fold(known, reports, rules, seals)
    if changes.charged:
        for statement, parameters in (
            (statements.PUT_CHARGED, statements.CHARGED.parameters(_charged_rows(changes))),
            (statements.ADD_USAGE, statements.USAGE.parameters(_usage_rows(changes))),
            (statements.ADD_SERIES, statements.SERIES.parameters(_series_rows(changes))),
        ):
            await connection.execute(statement, {"generation": generation, **parameters})
    return changes


async def _known(
    connection: AsyncConnection, generation: int, keys: set[bytes]
) -> dict[bytes, Charged]:
    found = await connection.execute(
        statements.READ_INVOCATIONS, {"generation": generation, "keys": of_bytes(keys)}
    )
    return {row.key: _charged(row) for row in found}


def _charged(row: Any) -> Charged:
    gateway = worker = None
    if row.invocation_id is not None:
        gateway = GatewaySide(
            invocation_id=row.invocation_id, errors=row.gateway_errors, wall_ms=row.wall_ms
        )
    if row.worker_requests is not None:
        worker = WorkerSide(
            event_id=row.event_id,
            requests=row.worker_requests,
            llm_tokens=row.worker_llm_tokens,
            compute_ms=row.worker_compute_ms,
            tool_calls=row.worker_tool_calls,
            errors=row.worker_errors,
        )
    invocation = Invocation(
        user_id=row.user_id,
        agent_id=row.agent_id,
        deployment_id=row.deployment_id,
        runtime_provider=row.runtime_provider,
        at_ms=row.at_ms,
        trace_id=row.trace_id,
        key_id=row.key_id,
        error_class=row.error_class,
        gateway=gateway,
        worker=worker,
    )
    charged_to = UsageRow(row.user_id, row.charged_period, row.charged_runtime)
    return Charged(invocation, Charge(charged_to, counters_of(row)))


# The rows that follow are in the order of the columns in `tables`, and so are sides and counters.


def _charged_rows(changes: Changes) -> Iterable[tuple[Any, ...]]:
    """Yield the rows of `invocations`, each with what `usage_events` has beyond that."""
    for key, charged in changes.charged.items():
        invocation, row = charged.invocation, charged.charge.row
        gateway, worker = invocation.gateway, invocation.worker
        yield (
            key,
            invocation.user_id,
            invocation.agent_id,
            invocation.deployment_id,
            invocation.runtime_provider,
            invocation.at_ms,
            invocation.trace_id,
            invocation.key_id,
            invocation.error_class,
            *(astuple(gateway) if gateway is not None else _NO_GATEWAY),
            *(astuple(worker) if worker is not None else _NO_WORKER),
            row.period_key,
            row.runtime_provider,
            *astuple(charged.charge.counters),
            invocation.source,
            changes.providers.get(key),
        )


_NO_GATEWAY = (None,) * len(GatewaySide.__struct_fields__)
_NO_WORKER = (None,) * len(WorkerSide.__struct_fields__)


def _usage_rows(changes: Changes) -> Iterable[tuple[Any, ...]]:
    for row, change in changes.rows.items():
        yield (
            subjects.partition_of(row.user_id),
            row.user_id,
            row.period_key,
            row.runtime_provider,
            change.invocations,
            *astuple(change.counters),
            change.updated_at_ms,
        )


def _series_rows(changes: Changes) -> Iterable[tuple[Any, ...]]:
    """Yield the rows of the series, without those that are past their retention: a rebuild of a
    year would write them to be removed.
    """
    now = now_ms()
    kept = {bucket: kept_from(bucket, now) for bucket in BUCKETS}
    for row, change in changes.series.items():
        if row.start_ms >= kept[row.bucket]:
            yield (
                subjects.partition_of(row.user_id),
                row.user_id,
                row.bucket,
                row.start_ms,
                row.agent_id,
                row.deployment_id,
                row.runtime_provider,
                change.invocations,
                *astuple(change.counters),
            )
