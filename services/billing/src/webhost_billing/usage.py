"""The rows of one generation of usage: a batch folded into them, in the caller's transaction.

Consumes: decoded facts of USAGE. Emits: nothing.
Guarantees: one statement per table and batch; rebuilt and live rows are made by the same code.
On replay: a report that was heard before changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing.charging import PriceBook
from webhost_billing.folding import Changes, fold
from webhost_billing.model import GatewaySide, Report, WorkerSide, usage_report_of


async def fold_into(
    connection: AsyncConnection, generation: int, facts: Sequence[Fact], prices: PriceBook
) -> Changes:
    """Fold these facts into this generation; return what that changed."""
    usage_reports = [usage_report_of(fact.envelope, fact.event) for fact in facts]
    known = await _known(connection, generation, {one.key for one in usage_reports})
    changes = fold(known, usage_reports, prices)
    if changes.reports:
        for statement, rows in (
            (_PUT_REPORTS, _report_rows(generation, changes)),
            (_PUT_EVENTS, _event_rows(generation, changes)),
            (_ADD_USAGE, _usage_rows(generation, changes)),
        ):
            encoded = msgspec.json.encode(list(rows)).decode()
            await connection.execute(statement, {"rows": encoded})
    return changes


async def _known(
    connection: AsyncConnection, generation: int, keys: set[bytes]
) -> dict[bytes, Report]:
    found = await connection.execute(_READ_REPORTS, {"generation": generation, "keys": list(keys)})
    return {row[0]: _report(row) for row in found}


def _report(row: Sequence[Any]) -> Report:
    _, user_id, agent_id, deployment_id, provider, at_ms, trace_id, error_class, *sides = row
    invocation_id, gateway_errors, wall_ms, event_id, *worker = sides
    return Report(
        user_id=user_id,
        agent_id=agent_id,
        deployment_id=deployment_id,
        runtime_provider=provider,
        at_ms=at_ms,
        trace_id=trace_id,
        error_class=error_class,
        gateway=None
        if invocation_id is None
        else GatewaySide(invocation_id=invocation_id, errors=gateway_errors, wall_ms=wall_ms),
        worker=None
        if worker[0] is None
        else WorkerSide(
            event_id=event_id,
            requests=worker[0],
            llm_tokens=worker[1],
            compute_ms=worker[2],
            tool_calls=worker[3],
            errors=worker[4],
        ),
    )


def _report_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    for key, report in changes.reports.items():
        gateway, worker = report.gateway, report.worker
        row = _common(generation, key, report)
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
    for key, report in changes.reports.items():
        counters = changes.charges[key].counters
        provider = changes.providers.get(key)
        row = _common(generation, key, report)
        row["source"] = report.source
        row["requests"] = counters.requests
        row["llm_tokens"] = counters.llm_tokens
        row["compute_ms"] = counters.compute_ms
        row["tool_calls"] = counters.tool_calls
        row["errors"] = counters.errors
        row["cost_picodollars"] = str(counters.cost_picodollars)
        row["provider"] = None if provider is None else _bytes(provider)
        yield row


def _common(generation: int, key: bytes, report: Report) -> dict[str, Any]:
    return {
        "generation": generation,
        "key": _bytes(key),
        "user_id": report.user_id,
        "agent_id": report.agent_id,
        "deployment_id": report.deployment_id,
        "runtime_provider": report.runtime_provider,
        "at_ms": report.at_ms,
        "trace_id": report.trace_id,
        "error_class": report.error_class,
        "invocation_id": report.gateway.invocation_id if report.gateway else None,
        "event_id": report.worker.event_id if report.worker else None,
    }


def _usage_rows(generation: int, changes: Changes) -> Iterable[dict[str, Any]]:
    for row, change in changes.rows.items():
        yield {
            "generation": generation,
            "user_id": row.user_id,
            "period_key": row.period_key,
            "runtime_provider": row.runtime_provider,
            "reports": change.reports,
            "requests": str(change.counters.requests),
            "llm_tokens": str(change.counters.llm_tokens),
            "compute_ms": str(change.counters.compute_ms),
            "tool_calls": str(change.counters.tool_calls),
            "errors": str(change.counters.errors),
            "cost_picodollars": str(change.counters.cost_picodollars),
            "updated_at_ms": change.updated_at_ms,
        }


def _bytes(value: bytes) -> str:
    """Write bytes as Postgres reads them."""
    return f"\\x{value.hex()}"


_READ_REPORTS = sa.text(
    """
    SELECT key, user_id, agent_id, deployment_id, runtime_provider, at_ms, trace_id, error_class,
        invocation_id, gateway_errors, wall_ms, event_id, worker_requests, worker_llm_tokens,
        worker_compute_ms, worker_tool_calls, worker_errors
    FROM reports WHERE generation = :generation AND key = ANY(:keys)
    """
)
_PUT_REPORTS = sa.text(
    """
    INSERT INTO reports
    SELECT * FROM json_populate_recordset(NULL::reports, CAST(:rows AS json))
    ON CONFLICT (generation, key) DO UPDATE SET
        user_id = excluded.user_id, agent_id = excluded.agent_id,
        runtime_provider = excluded.runtime_provider, at_ms = excluded.at_ms,
        trace_id = excluded.trace_id, error_class = excluded.error_class,
        invocation_id = excluded.invocation_id, gateway_errors = excluded.gateway_errors,
        wall_ms = excluded.wall_ms, event_id = excluded.event_id,
        worker_requests = excluded.worker_requests,
        worker_llm_tokens = excluded.worker_llm_tokens,
        worker_compute_ms = excluded.worker_compute_ms,
        worker_tool_calls = excluded.worker_tool_calls, worker_errors = excluded.worker_errors
    """
)
_PUT_EVENTS = sa.text(
    """
    INSERT INTO usage_events AS old
    SELECT * FROM json_populate_recordset(NULL::usage_events, CAST(:rows AS json))
    ON CONFLICT (generation, key) DO UPDATE SET
        user_id = excluded.user_id, agent_id = excluded.agent_id,
        runtime_provider = excluded.runtime_provider, at_ms = excluded.at_ms,
        source = excluded.source, invocation_id = excluded.invocation_id,
        event_id = excluded.event_id, trace_id = excluded.trace_id,
        error_class = excluded.error_class, requests = excluded.requests,
        llm_tokens = excluded.llm_tokens, compute_ms = excluded.compute_ms,
        tool_calls = excluded.tool_calls, errors = excluded.errors,
        cost_picodollars = excluded.cost_picodollars,
        provider = coalesce(excluded.provider, old.provider)
    """
)
_ADD_USAGE = sa.text(
    """
    INSERT INTO billing_usage AS old
    SELECT * FROM json_populate_recordset(NULL::billing_usage, CAST(:rows AS json))
    ON CONFLICT (generation, user_id, period_key, runtime_provider) DO UPDATE SET
        reports = old.reports + excluded.reports,
        requests = old.requests + excluded.requests,
        llm_tokens = old.llm_tokens + excluded.llm_tokens,
        compute_ms = old.compute_ms + excluded.compute_ms,
        tool_calls = old.tool_calls + excluded.tool_calls,
        errors = old.errors + excluded.errors,
        cost_picodollars = old.cost_picodollars + excluded.cost_picodollars,
        updated_at_ms = greatest(old.updated_at_ms, excluded.updated_at_ms)
    """
)
