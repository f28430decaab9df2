"""Usage: USAGE folded into the live generation, for as long as billing runs.

Consumes: `invocation.finished` and `telemetry.accepted` of USAGE.
Emits: nothing; notes which users' totals are due (see `totals`), in the same transaction.
Guarantees: rows and checkpoint are one transaction, so each fact counts once. The pointer to the
live generation is locked for it, so a rebuild swaps between two batches and never inside one.
On replay: a report that was heard before changes nothing.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Committed, Projector

from webhost_billing.charging import PriceBook
from webhost_billing.model import TYPES
from webhost_billing.usage import fold_into

NAME = "billing.usage"
SUBJECTS = (subjects.ALL_USAGE,)
BATCH = 1_000

# What the second lacks of the first is the share of invocations without telemetry.
_invocations = Counter("webhost_billing_invocations_total", "Invocations that the gateway stated")
_complete = Counter("webhost_billing_complete_total", "Invocations known from both sides")


def projector(database: Database, bus: Bus, prices: PriceBook, committed: Committed) -> Projector:
    """Return what keeps the live generation current."""

    async def fold(connection: AsyncConnection, facts: Sequence[Fact], behind: Checkpoint) -> None:
        live = (await connection.execute(_LIVE)).scalar_one()
        changes = await fold_into(connection, live, facts, prices)
        _invocations.inc(changes.invocations)
        _complete.inc(changes.complete)
        due = sorted({(row.user_id, row.period_key) for row in changes.rows})
        users, periods = [user for user, _ in due], [period for _, period in due]
        await connection.execute(
            _DUE,
            {"users": users, "periods": periods, "live": live, "sequence": behind.sequence},
        )

    return Projector(
        NAME,
        database,
        bus,
        subjects.USAGE,
        SUBJECTS,
        TYPES,
        fold,
        committed=committed,
        batch_size=BATCH,
    )


_LIVE = sa.text("SELECT live FROM generations WHERE scope = 'all' FOR SHARE")
_DUE = sa.text(
    """
    INSERT INTO totals_due (user_id, period_key, generation, sequence)
    SELECT u, p, :live, :sequence
    FROM unnest(CAST(:users AS text[]), CAST(:periods AS text[])) AS due (u, p)
    ON CONFLICT (user_id, period_key) DO UPDATE SET
        generation = excluded.generation, sequence = excluded.sequence
    """
)
