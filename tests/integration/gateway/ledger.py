"""A gateway's ledger in the test's own process: admission, outcomes, lease and reaper."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from webhost_contracts import ids
from webhost_gateway.ledger.admission import Admission
from webhost_gateway.ledger.admission_statement import STATEMENT_TIMEOUT_S
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.ledger.reaper import Reaper
from webhost_gateway.ledger.recording import Recording
from webhost_gateway.model import Invocation, Outcome
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.statements import Statements
from webhost_kit.eventsourcing.store import new_id

from tests.support.deadline import eventually
from tests.support.harness import in_background


async def nothing() -> None:
    pass


@dataclass
class Ledger:
    """One gateway's."""

    dsn: str
    lease: Lease
    outcomes: Outcomes
    admission: Admission
    reaper: Reaper

    def record(self, invocation: Invocation, answer: Recording | None = None) -> None:
        self.outcomes.record(
            invocation,
            Outcome(outcome="succeeded", wall_ms=1),
            now_ms(),
            request_id=None,
            traceparent=None,
            answer=answer,
        )

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def quota(self, user_id: str) -> tuple[int, int]:
        [row] = self.rows("SELECT requests, in_flight FROM quotas WHERE user_id = %s", user_id)
        return (row[0], row[1])

    def backend(self, name: str) -> int:
        """The server's process behind the connection of this name, by the server's own id."""
        [(pid,)] = self.rows(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            f"gateway {name}",
        )
        return pid


@asynccontextmanager
async def ledger(
    dsn: str,
    *,
    ttl_s: float = 8,
    reaping: bool = False,
    before_taking: Callable[[], Awaitable[None]] = nothing,
) -> AsyncIterator[Ledger]:
    """A running ledger that holds its lease. Its reaper runs by itself only if it is `reaping`."""
    database = Database(dsn)
    lease = Lease(database, ttl_s=ttl_s, before_taking=before_taking)
    recording, reaps = Statements(dsn, "gateway recording"), Statements(dsn, "gateway reaping")
    admitting = Statements(dsn, "gateway admitting", timeout_s=STATEMENT_TIMEOUT_S)
    outcomes = Outcomes(recording, lease)
    admission = Admission(admitting, lease, outcomes)
    reaper = Reaper(reaps, lease, outcomes)
    work = [lease.run(), outcomes.run(), admission.run(), *([reaper.run()] if reaping else [])]
    try:
        async with in_background(*work):
            await held(lease)
            yield Ledger(dsn, lease, outcomes, admission, reaper)
    finally:
        for part in (recording, reaps, admitting, database):
            await part.close()


async def held(lease: Lease) -> None:
    async def is_held() -> bool:
        return lease.check() is None

    await eventually(is_held, "the lease")


async def until_gone(here: Ledger, pid: int) -> None:
    async def gone() -> bool:
        return here.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) == []

    await eventually(gone, "the backend to end")


def an_invocation(user_id: str) -> Invocation:
    at_ms = now_ms()
    return Invocation(
        id=new_id(ids.INVOCATION, at_ms),
        user_id=user_id,
        agent_id="agt_1",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        trace_id="t",
        period_key="2026-11",
        admitted_at_ms=at_ms,
    )
