"""Finishes what dead gateways left, what a restored database has open, what this one leaves.

Emits: `invocation.finished.v1` of outcome `unknown`, into the usage outbox.
Its statements are raw SQL, named at the end of the file.
Guarantees: a gateway is declared dead only by one that has seen the database answer for a whole
lease time (`Lease.judges_until`). Its lease is marked first, so that it neither admits nor renews
any more; then its open invocations are finished, each with its fact, in batches that hold no lock
for long; its lease is deleted when none is open. So every admitted call is stated once, whichever
process dies when: another reaper continues with a marked lease.
Where the database is another incarnation than before, and so may be an old copy, calls are open in
it that have ended: those of this gateway's that it does not expect an outcome of are finished too.
On replay: an invocation finished by another gateway is not open any more, and stays as it is.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog
from webhost_kit.clock import now_ms
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Unavailable

from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import INVOCATIONS, Outcomes, finish
from webhost_gateway.ledger.usage_relay import ADOPT
from webhost_gateway.model import Invocation, Outcome, closing

log = structlog.get_logger(__name__)

BATCH = 300
PAGE = 10 * BATCH
PAUSE_S = 0.01
"""The pause between two batches: admission has priority."""
CLOSING_S = 5.0

UNKNOWN = Outcome(outcome="unknown")
_unknown = INVOCATIONS.labels("unknown")


class Reaper:
    """Looks for dead gateways. `recorded` is called when there are facts to be published."""

    def __init__(
        self,
        statements: Statements,
        lease: Lease,
        outcomes: Outcomes,
        recorded: Callable[[], None] = lambda: None,
    ) -> None:
        self._statements = statements
        self._lease = lease
        self._outcomes = outcomes
        self._recorded = recorded
        self._compared_with: str | None = None

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            try:
                await self.reap()
            except Unavailable as error:
                log.warning("open calls not finished", error=error.message)
            await asyncio.sleep(self._lease.every_s)

    async def close(self) -> None:
        """Give up this gateway's lease. Another gateway does what is left to do."""
        own = {"gateway_id": self._lease.gateway_id}
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await self._statements.execute((MARK_OWN, own))
                await self._finish_open(self._lease.gateway_id)
                await self._statements.execute((END_OWN, own))

    async def reap(self) -> None:
        """Finish what a restored database has open, and what belongs to dead gateways.

        They are marked first, as far as they may be judged.
        """
        await self._finish_restored()
        if (until_s := self._lease.judges_until) is not None:
            judging = {"until_s": until_s, "incarnation": self._lease.incarnation}
            for (gateway_id,) in await self._statements.execute((MARK, judging)):
                log.warning("gateway found dead", gateway_id=gateway_id)
        for (gateway_id,) in await self._statements.execute((DEAD, {})):
            await self._finish_open(gateway_id)
            dead = {"gateway_id": gateway_id, "own": self._lease.gateway_id}
            await self._statements.execute((END, dead), (ADOPT, dead))
            self._recorded()

    async def _finish_restored(self) -> None:
        incarnation = self._lease.incarnation
        if incarnation == self._compared_with:
            return
        await self._finish_open(self._lease.gateway_id, spared=self._outcomes.expected)
        self._compared_with = incarnation
        # Its facts may be older than those seen, whether any were added or not.
        self._recorded()

    async def _finish_open(
        self, gateway_id: str, *, spared: Callable[[Invocation], bool] = lambda _: False
    ) -> None:
        finished = 0
        passed = ("", "")
        while page := await self._open_invocations(gateway_id, *passed):
            passed = (page[-1].user_id, page[-1].id)
            # Asked after the page was read: a call is expected before it is on record.
            left = [invocation for invocation in page if not spared(invocation)]
            for start in range(0, len(left), BATCH):
                at_ms = now_ms()
                batch = [closing(i, UNKNOWN, at_ms) for i in left[start : start + BATCH]]
                await self._statements.execute(finish(batch, self._lease.gateway_id))
                self._recorded()
                finished += len(batch)
                _unknown.inc(len(batch))
                await asyncio.sleep(PAUSE_S)
        if finished:
            log.warning("calls finished as unknown", gateway_id=gateway_id, calls=finished)

    async def _open_invocations(
        self, gateway_id: str, user_id: str, invocation_id: str
    ) -> list[Invocation]:
        """Return those that come after this user's invocation."""
        after = {"user_id": user_id, "id": invocation_id}
        parameters = {"gateway_id": gateway_id, "page": PAGE, **after}
        rows = await self._statements.execute((OPEN, parameters))
        names = Invocation.__struct_fields__
        return [Invocation(**dict(zip(names, row, strict=True))) for row in rows]


# Where FOR UPDATE succeeds, no admission under the lease is under way. Executed late, by a
# server that hung, or in another incarnation of the database, it marks nothing.
MARK = """
UPDATE leases SET dead = true WHERE gateway_id IN (
    SELECT gateway_id FROM leases
    WHERE NOT dead AND expires_at < clock_timestamp()
        AND clock_timestamp() < to_timestamp(%(until_s)s)
        AND current_setting('webhost.incarnation') = %(incarnation)s
    FOR UPDATE SKIP LOCKED
) RETURNING gateway_id
"""
MARK_OWN = """
UPDATE leases SET dead = true WHERE gateway_id IN (
    SELECT gateway_id FROM leases WHERE gateway_id = %(gateway_id)s FOR UPDATE
)
"""
DEAD = "SELECT gateway_id FROM leases WHERE dead ORDER BY gateway_id"

# By user, so that a batch locks few quotas.
OPEN = """
SELECT id, user_id, agent_id, deployment_id, runtime_provider, trace_id, period_key,
    admitted_at_ms, key_id, key_period
FROM invocations WHERE gateway_id = %(gateway_id)s AND finished_at_ms IS NULL
    AND (user_id, id) > (%(user_id)s, %(id)s)
ORDER BY user_id, id LIMIT %(page)s
"""

# First the lease, then the facts: where nothing is open, no more facts are recorded under it.
END = """
DELETE FROM leases WHERE gateway_id = %(gateway_id)s AND dead AND NOT EXISTS (
    SELECT FROM invocations WHERE gateway_id = %(gateway_id)s AND finished_at_ms IS NULL
)
"""
END_OWN = f"""
{END} AND NOT EXISTS (SELECT FROM usage_outbox WHERE gateway_id = %(gateway_id)s)
"""
