"""Usage: USAGE folded into the live generation, partition by partition, while billing runs.

Consumes: `invocation.finished` and `telemetry.accepted` of USAGE, in packets.
Emits, in the transaction of the fold: users' totals (see `totals`), which are noted as due; the
seals of periods (see `seals`), at the first message whose time they are due at; the feed of settled
usage (see `feed`); what was reached of users' limits (see `thresholds`).
Guarantees: a partition's rows and its checkpoint are one transaction, so each fact counts once;
the running processes share the partitions (see `webhost_kit.database.partitions`). The live
generation is held for each batch, so a rebuild swaps between two batches and never inside one.
On replay (the stream was lost and recreated): a side of an invocation that was already known
changes nothing; totals get a new epoch, since their sequences start again.
"""

import asyncio
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.entitlements import Entitlements
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.partitions import PartitionShare
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.store import require_verified
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.tasks import run_together

from webhost_billing import generations, statements
from webhost_billing.charging import Rules
from webhost_billing.feed import store as feed
from webhost_billing.feed.keeper import FeedKeeper
from webhost_billing.model import TYPES, UsageReport
from webhost_billing.partitions import checkpoint_name
from webhost_billing.seals import decisions as sealing
from webhost_billing.seals import store as seals
from webhost_billing.tables import totals_due
from webhost_billing.thresholds import store as threshold_facts
from webhost_billing.totals import TotalsPublisher
from webhost_billing.usage import fold_into, usage_reports

log = structlog.get_logger(__name__)

SHARE = "billing usage"
BATCH = 500
PAUSE_S = 0.2
"""A transaction costs as much for one call as for hundreds; budgets have to hold in a second."""
RETRY_S = 0.5

# What the second lacks of the first is the share of invocations without telemetry.
_invocations = Counter(
    "webhost_billing_invocations_total", "Calls that gateways reported, and that are counted"
)
_complete = Counter(
    "webhost_billing_invocations_complete_total",
    "Calls known from both sides, their gateway and their Worker: the others have no telemetry",
)


class UsageProjection:
    """Keeps this process's share of the partitions current, and their totals."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        streams: StreamWatch,
        rules: Rules,
        tiers: Mapping[str, Entitlements],
    ) -> None:
        self._database = database
        self._bus = bus
        self._rules = rules
        self._compared: str | None = None
        self._tiers = tiers
        self._share = PartitionShare(database.dsn, SHARE, subjects.PARTITIONS, check=bus.check)
        self._totals = {
            partition: TotalsPublisher(
                database, bus, streams, partition, checkpoint_name(partition)
            )
            for partition in range(subjects.PARTITIONS)
        }
        self.projectors = {
            partition: self._projector(partition) for partition in range(subjects.PARTITIONS)
        }
        self._feed = FeedKeeper(database, bus, [*map(checkpoint_name, range(subjects.PARTITIONS))])

    def check(self) -> str | None:
        """Say what keeps this process's partitions from being current."""
        if (problem := self._share.check()) is not None:
            return problem
        for partition, projector in self.projectors.items():
            if (problem := projector.check()) is not None:
                return f"partition {partition}: {problem}"
        return None

    def note(self) -> str | None:
        """Say in which partitions events are parked."""
        notes = {partition: one.note() for partition, one in self.projectors.items()}
        return "; ".join(f"partition {p}: {note}" for p, note in notes.items() if note) or None

    async def run(self) -> None:
        """Fold and publish totals for the partitions that this process holds; see `check`."""
        await self._share.run(self._work)

    async def swapped(self) -> None:
        """Publish the totals that a rebuild in this process made due."""
        for totals in self._totals.values():
            await totals.wake()

    async def _work(self, partition: int) -> None:
        projector, totals = self.projectors[partition], self._totals[partition]
        await run_together(self._project(projector), totals.run(), self._feed.run(partition))

    async def _project(self, projector: Projector) -> None:
        while True:
            try:
                await projector.project()
            except Exception as error:
                if not (is_away(error) or isinstance(error, Unavailable)):
                    raise
                log.warning("fold interrupted", projection=projector.name, error=repr(error))
            await asyncio.sleep(RETRY_S)

    def _require_compared(self, connection: AsyncConnection) -> None:
        """Raise Unavailable until billing's own facts were compared with EVENTS once.

        A database that was restored may lack seals that decide what counts. Later on EVENTS may be
        away or halted: what this database was sealed with is known.
        """
        incarnation = connection.info.get("incarnation")
        if incarnation != self._compared:
            require_verified(connection)
            self._compared = incarnation

    async def _fold_part(
        self,
        connection: AsyncConnection,
        live: int,
        partition: int,
        facts: Sequence[Fact],
        through: str,
        behind: Checkpoint,
    ) -> Sequence[UsageReport]:
        """Fold a partition's facts between two seals; return what came too late."""
        closed = seals.closed(partition, through)
        changes = await fold_into(connection, live, usage_reports(facts), self._rules, closed)
        if facts:
            await feed.state(connection, partition, live, facts, changes)
            await threshold_facts.state(connection, live, partition, changes.steps, self._tiers)
        _invocations.inc(changes.invocations)
        _complete.inc(changes.complete)
        due = sorted({(row.user_id, row.period_key) for row in changes.rows})
        await connection.execute(
            statements.CHANGED_ARE_DUE,
            {
                "partition": partition,
                "users": [user for user, _ in due],
                "periods": [period for _, period in due],
                "generation": live,
                "sequence": behind.sequence,
            },
        )
        return changes.late

    def _projector(self, partition: int) -> Projector:
        async def fold(
            connection: AsyncConnection, facts: Sequence[Fact], behind: Checkpoint
        ) -> None:
            self._require_compared(connection)
            live = await generations.hold(connection)
            created_at = behind.stream_created_at
            place = await seals.load_place(connection, partition, created_at)
            through = place.through
            _, parts = sealing.divide(place, facts, self._rules.seal_delay_ms)
            for part in parts:
                if part.seal is not None:
                    await seals.apply(connection, live, part.seal, through, created_at)
                    through = max(through, part.seal.through)
                late = await self._fold_part(
                    connection, live, partition, part.facts, through, behind
                )
                was_parked = len(facts) == 1 and facts[0].sequence < behind.sequence
                await seals.record_late(
                    connection, partition, late, part.facts, created_at, was_parked=was_parked
                )
            crash_point("billing.folding")

        async def reset(connection: AsyncConnection) -> None:
            # The rows stay. What is due of them is put with the sequences that begin again.
            due = sa.update(totals_due).where(totals_due.c.partition == partition)
            await connection.execute(due.values(sequence=0))

        return Projector(
            checkpoint_name(partition),
            self._database,
            self._bus,
            subjects.USAGE,
            [subjects.usage_partition(partition)],
            TYPES,
            fold,
            committed=self._totals[partition].wake,
            reset=reset,
            batch_size=BATCH,
            pause_s=PAUSE_S,
            share=f"share {SHARE}",
            family="billing.usage",
            partition=partition,
        )
