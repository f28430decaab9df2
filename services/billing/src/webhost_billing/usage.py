"""The rows of one generation of usage: a batch folded into them, in the caller's transaction.

Consumes: decoded facts of USAGE. Emits: nothing.
Guarantees: one statement per table and batch; rebuilt and live rows are made by the same code.
On replay: a side that was known already changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.buckets import BUCKETS, kept_from
from webhost_contracts.usage_rpc import Counters
from webhost_kit.clock import now_ms
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
from webhost_billing.tables import COUNTERS


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
        for statement, rows in (
            (statements.PUT_INVOCATIONS, _invocation_rows(generation, changes)),
            (statements.PUT_EVENTS, _event_rows(generation, changes)),
            (statements.ADD_USAGE, _usage_rows(generation, changes)),
            (statements.ADD_SERIES, _series_rows(generation, changes)),
        ):
            encoded = msgspec.json.encode(list(rows)).decode()
            await connection.execute(statement, {"rows": encoded})
    return changes


async def _known(
    connection: AsyncConnection, generation: int, keys: set[bytes]
) -> dict[bytes, Charged]:
    found = await connection.execute(
        statements.READ_INVOCATIONS, {"generation": generation, "keys": list(keys)}
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


def _invocation_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    for key, charged in changes.charged.items():
        gateway, worker = charged.invocation.gateway, charged.invocation.worker
        row = _common(generation, key, charged)
        row["charged_period"] = charged.charge.row.period_key
        row["charged_runtime"] = charged.charge.row.runtime_provider
        if gateway is not None:
            row["gateway_errors"] = gateway.errors
            row["wall_ms"] = gateway.wall_ms
        if worker is not None:
            row["worker_requests"] = worker.requests
            row["worker_llm_tokens"] = worker.llm_tokens
            row["worker_compute_ms"] = worker.compute_ms
            row["worker_tool_calls"] = worker.tool_calls
            row["worker_errors"] = worker.errors
        yield row


def _event_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    for key, charged in changes.charged.items():
        provider = changes.providers.get(key)
        row = _common(generation, key, charged)
        row["source"] = charged.invocation.source
        row["provider"] = None if provider is None else _bytes(provider)
        yield row


def _common(generation: int, key: bytes, charged: Charged) -> dict[str, Any]:
    invocation = charged.invocation
    return {
        "generation": generation,
        "key": _bytes(key),
        "user_id": invocation.user_id,
        "agent_id": invocation.agent_id,
        "deployment_id": invocation.deployment_id,
        "runtime_provider": invocation.runtime_provider,
        "at_ms": invocation.at_ms,
        "trace_id": invocation.trace_id,
        "key_id": invocation.key_id,
        "error_class": invocation.error_class,
        "invocation_id": invocation.gateway.invocation_id if invocation.gateway else None,
        "event_id": invocation.worker.event_id if invocation.worker else None,
        **_counter_columns(charged.charge.counters),
    }


def _usage_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    for row, change in changes.rows.items():
        yield {
            "generation": generation,
            "partition": subjects.partition_of(row.user_id),
            "user_id": row.user_id,
            "period_key": row.period_key,
            "runtime_provider": row.runtime_provider,
            "invocations": change.invocations,
            "updated_at_ms": change.updated_at_ms,
            **_counter_columns(change.counters),
        }


def _series_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    """Yield the rows of the series, without those that are past their retention: a rebuild of a
    year would write them to be removed.
    """
    now = now_ms()
    kept = {bucket: kept_from(bucket, now) for bucket in BUCKETS}
    for row, change in changes.series.items():
        if row.start_ms >= kept[row.bucket]:
            yield {
                "generation": generation,
                "partition": subjects.partition_of(row.user_id),
                "user_id": row.user_id,
                "bucket": row.bucket,
                "start_ms": row.start_ms,
                "agent_id": row.agent_id,
                "deployment_id": row.deployment_id,
                "runtime_provider": row.runtime_provider,
                "invocations": change.invocations,
                **_counter_columns(change.counters),
            }


def _counter_columns(counters: Counters) -> dict[str, str]:
    """Write counters as texts: JSON numbers of this size are not exact for every reader."""
    return {name: str(getattr(counters, name)) for name in COUNTERS}


def _bytes(value: bytes) -> str:
    """Write bytes as Postgres reads them."""
    return f"\\x{value.hex()}"
