"""The gateway's lease: who holds one may admit; what a dead gateway left is finished.

Emits: `invocation.finished.v1` of outcome `unknown`, on USAGE.
Guarantees: an invocation is only ever admitted under a live lease, and a lease is deleted in
the transaction that finishes its open invocations, each with its fact. So every admitted call
is stated once, whoever dies when. Times are the database's.
On replay: an invocation finished by another gateway is not open any more, and stays as it is.
"""

import asyncio
import secrets

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

from webhost_gateway.ledger.outcomes import finish
from webhost_gateway.ledger.records import Invocation, Outcome, closing

log = structlog.get_logger(__name__)

BATCH = 500
RENEWALS = 4
"""Tries to renew before the lease ends."""


class Lease:
    """This gateway's name, for as long as the database agrees that it is alive."""

    def __init__(self, database: Database, *, ttl_s: float) -> None:
        self._database = database
        self._ttl_s = ttl_s
        self._problem: str | None = "starting"
        self.gateway_id = _new_name()

    def check(self) -> str | None:
        """Say what keeps this gateway from admitting."""
        return self._problem

    async def run(self) -> None:
        """Renew the lease, and finish what dead gateways left, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._ttl_s):
                    await self._renew()
                    self._problem = None
                    while await self._reap_one():
                        pass
            except (Unavailable, DBAPIError, TimeoutError) as error:
                self._problem = f"not renewed: {type(error).__name__}"
                log.warning("lease not renewed", error=str(error).partition("\n")[0])
            await asyncio.sleep(self._ttl_s / RENEWALS)

    async def close(self) -> None:
        """Give the lease up at an orderly end; where that fails, others find it expired."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute(RELEASE, {"gateway_id": self.gateway_id})
                await _finish_open(connection, self.gateway_id)
        except (Unavailable, DBAPIError) as error:
            log.warning("lease not released", error=str(error).partition("\n")[0])

    async def _renew(self) -> None:
        async with self._database.transaction() as connection:
            renewed = await connection.execute(
                RENEW, {"gateway_id": self.gateway_id, "ttl_s": self._ttl_s}
            )
            if renewed.rowcount == 0:
                # Under the old name everything is finished by now: nothing may be added to it.
                self.gateway_id = _new_name()
                await connection.execute(
                    TAKE, {"gateway_id": self.gateway_id, "ttl_s": self._ttl_s}
                )
                log.info("lease taken", gateway_id=self.gateway_id)

    async def _reap_one(self) -> bool:
        async with self._database.transaction() as connection:
            dead = (await connection.execute(REAP)).scalar()
            if dead is None:
                return False
            finished = await _finish_open(connection, dead)
            log.warning("gateway found dead", gateway_id=dead, open_invocations=finished)
            return True


async def _finish_open(connection: AsyncConnection, gateway_id: str) -> int:
    """Finish a gateway's open invocations as unknown; return how many there were."""
    finished = 0
    while True:
        result = await connection.execute(OPEN, {"gateway_id": gateway_id, "batch": BATCH})
        rows = [Invocation(**row) for row in result.mappings()]
        if not rows:
            return finished
        at_ms = now_ms()
        statement, parameters = finish(
            [closing(row, Outcome(outcome="unknown"), at_ms) for row in rows]
        )
        await connection.exec_driver_sql(statement, parameters)
        finished += len(rows)


def _new_name() -> str:
    return f"gw_{secrets.token_hex(12)}"


RENEW = text(
    """
    UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
    WHERE gateway_id = :gateway_id
    """
)
TAKE = text(
    """
    INSERT INTO leases (gateway_id, expires_at)
    VALUES (:gateway_id, clock_timestamp() + make_interval(secs => :ttl_s))
    """
)
RELEASE = text("DELETE FROM leases WHERE gateway_id = :gateway_id")
REAP = text(
    """
    DELETE FROM leases WHERE gateway_id = (
        SELECT gateway_id FROM leases WHERE expires_at < clock_timestamp()
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING gateway_id
    """
)
OPEN = text(
    """
    SELECT id, user_id, agent_id, deployment_id, runtime_provider, trace_id, period_key,
        admitted_at_ms
    FROM invocations WHERE gateway_id = :gateway_id AND finished_at_ms IS NULL
    ORDER BY id LIMIT :batch
    """
)
