"""One rebuild, from where it stands to the swap.

Guarantees: the swap is one transaction, in which both generations stand at the same sequence of
every partition, and folds wait for it only as long as catching up with them last took, and the
comparison of open periods.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import RebuildProgress
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.leadership import HEARTBEAT_S
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.process.crashpoints import crash_point

from webhost_billing import generations
from webhost_billing.charging import Rules
from webhost_billing.partitions import checkpoint_name
from webhost_billing.rebuild import progress
from webhost_billing.rebuild.comparing import Comparison, Found
from webhost_billing.rebuild.process_pool import Pool, start_pool
from webhost_billing.rebuild.refolding import Targets
from webhost_billing.rebuild.scope import Scope, held

log = structlog.get_logger(__name__)

CATCH_UP_S = 0.5
"""Folds are held back only when catching up with them last took no longer than this."""

SendProgress = Callable[[RebuildProgress], Awaitable[None]]
Prepare = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Rebuilt:
    """How many messages were folded, what differed, for how long live folds were held back, and
    which generation is to be removed, if any.
    """

    messages: int
    differences: Found
    sealed: Found
    held_back_ms: int
    dead: int | None


class Run:
    """A rebuild, on the connection that holds the lock: without the lock there is no swap."""

    def __init__(
        self, connection: AsyncConnection, bus: Bus, rules: Rules, scope: Scope, send: SendProgress
    ) -> None:
        self._connection = connection
        self._bus = bus
        self._rules = rules
        self._scope = scope
        self._send = send
        self._folded = 0
        self._total = 0

    async def run(self, dry_run: bool, remove_old: Prepare, purge_dead: Prepare) -> Rebuilt:
        """Rebuild; `remove_old` removes what is past its retention, also from the new rows.

        Raises Refused, and PoolFailed where a process failed: the next rebuild goes on from there.
        """
        connection = self._connection
        async with connection.begin():
            live = await generations.live(connection)
            found = await held(connection, self._bus, self._scope, live)
            new, resumed = await progress.resume_or_begin(
                connection, self._scope, self._rules, found.created_at, dry_run=dry_run
            )
        await self._meanwhile(purge_dead())
        if resumed:
            self._folded = resumed
            await self._send(RebuildProgress(processed=resumed, total=resumed, resumed=resumed))
        # What a dry run found begun, it leaves to the rebuild that goes on with it.
        is_left = dry_run and resumed > 0
        comparison = Comparison(connection, self._scope, found, live, new)
        async with start_pool(new, self._scope.partitions) as pool:
            await self._catch_up(pool)
            await self._meanwhile(remove_old())
            async with connection.begin():
                await comparison.prepare(dry_run=dry_run)
            await self._catch_up(pool)
            async with connection.begin():
                await generations.block_folds(connection)
                began = monotonic()
                await self._fold_up_to(pool, await self._live_targets())
                await comparison.finish()
                if not dry_run:
                    await comparison.require_all_rebuilt()
                    await self._swap(comparison, live, new)
                if not is_left:
                    await progress.give_up(connection, new)
        held_back_ms = round((monotonic() - began) * 1000)
        log.info(
            "rebuilt",
            dry_run=dry_run,
            messages=self._folded,
            differences=comparison.differences.count,
            held_back_ms=held_back_ms,
        )
        unused = live if self._scope.is_all and not dry_run else new
        dead = None if is_left else unused
        return Rebuilt(self._folded, comparison.differences, comparison.sealed, held_back_ms, dead)

    async def _swap(self, comparison: Comparison, live: int, new: int) -> None:
        current = period_key(now_ms())
        if self._scope.is_all:
            await generations.swap(self._connection, live, new, current)
        else:
            await comparison.exchange(current)
        crash_point("rebuild.swapping")

    async def _catch_up(self, pool: Pool) -> None:
        """Fold until there is so little left that folds may be held back for it."""
        took = CATCH_UP_S + 1
        while took > CATCH_UP_S:
            async with self._connection.begin():
                targets = await self._live_targets()
            began = monotonic()
            await self._fold_up_to(pool, targets)
            took = monotonic() - began

    async def _fold_up_to(self, pool: Pool, targets: Targets) -> None:
        self._total = max([self._total, *targets.values()])
        await self._meanwhile(pool.fold_up_to(targets, self._on_folded))

    async def _meanwhile(self, work: Awaitable[object]) -> None:
        """Let something be done, while this connection shows the server that it lives."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=HEARTBEAT_S))[0]:
                await self._heartbeat()
            await task
        finally:
            task.cancel()

    async def _on_folded(self, messages: int) -> None:
        self._folded += messages
        crash_point("rebuild.progress")
        await self._send(RebuildProgress(processed=self._folded, total=self._total))

    async def _heartbeat(self) -> None:
        if self._connection.in_transaction():
            await self._connection.execute(_HEARTBEAT)
        else:
            async with self._connection.begin():
                await self._connection.execute(_HEARTBEAT)

    async def _live_targets(self) -> Targets:
        """Return by partition up to where the live generation has been folded."""
        partitions: Sequence[int] = self._scope.partitions
        checkpoints = {
            partition: await read_checkpoint(self._connection, checkpoint_name(partition))
            for partition in partitions
        }
        return {p: checkpoint.sequence for p, checkpoint in checkpoints.items() if checkpoint}


_HEARTBEAT = sa.select(1)
