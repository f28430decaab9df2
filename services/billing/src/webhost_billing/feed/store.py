"""The feed of settled usage, stated beside the fold, in the caller's transaction.

Consumes: the steps of each folded batch, and seals of periods; what no message settles, see
`keeper`.
Emits: entries in `usage_feed`, which `queries` reads.
Guarantees: every entry once, in the transaction of the fold that it follows from; in each partition
the same entries in the same order wherever batches end, see `decisions`. A rebuild states nothing.
On replay (the stream is read again, or is another one): what is known changes nothing, so nothing
is stated; numbers and the partition's time go on from where they were.
"""

from collections.abc import Sequence
from typing import Any

import structlog
from msgspec.structs import astuple
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.database.rows import of_bytes
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing.feed import statements
from webhost_billing.feed.decisions import Entry, Settled, settle
from webhost_billing.folding import Changes

log = structlog.get_logger(__name__)

FEED_DAYS = 100
"""A month is sealed 36 days after its end: all of it can be exported for a month after that."""
DAY_MS = 24 * 3_600_000

_stated = Counter(
    "webhost_billing_feed_entries_total", "Entries that were stated in the feed of settled usage"
)


async def state(
    connection: AsyncConnection,
    partition: int,
    generation: int,
    facts: Sequence[Fact],
    changes: Changes,
) -> None:
    """State what a batch settles, in the transaction that folded it into the live generation."""
    keys = {step.key for step in changes.steps if step.before is not None}
    found = await connection.execute(
        statements.READ_WAITING, {"partition": partition, "keys": of_bytes(keys)}
    )
    rows = found.all()
    waiting = {bytes(row.key): row.since_ms for row in rows if row.key is not None}
    newest_ms = max(fact.recorded_at_ms for fact in facts)
    settled = settle(changes.steps, waiting, rows[0].stream_ms, newest_ms)
    await _state(connection, partition, generation, settled)


async def state_sealed(
    connection: AsyncConnection, partition: int, generation: int, through: str
) -> None:
    """State what waits of the periods that are closed now: from here on it is not known."""
    found = await connection.execute(statements.READ_WAITING, {"partition": partition, "keys": []})
    stream_ms = int(found.one().stream_ms)
    await connection.execute(
        statements.SEALED_ARE_DUE,
        {
            "partition": partition,
            "generation": generation,
            "stream_ms": stream_ms,
            "through": through,
        },
    )
    await settle_up_to(connection, partition, generation, stream_ms)


async def settle_up_to(
    connection: AsyncConnection, partition: int, generation: int, stream_ms: int
) -> None:
    """State what is due where the stream's time is this."""
    await _state(connection, partition, generation, Settled(stream_ms))


async def _state(
    connection: AsyncConnection, partition: int, generation: int, settled: Settled
) -> None:
    result = await connection.execute(
        statements.STATE,
        {
            "partition": partition,
            "generation": generation,
            "stream_ms": settled.stream_ms,
            "done": of_bytes(settled.done),
            **statements.WAITING.parameters(settled.waiting.items()),
            **statements.ENTRIES.parameters(map(_row, settled.entries)),
        },
    )
    _stated.inc(result.rowcount)


def _row(entry: Entry) -> tuple[Any, ...]:
    """Return an entry in the order of the columns of `usage_feed`."""
    invocation, row = entry.charged.invocation, entry.charged.charge.row
    gateway = invocation.gateway
    return (
        entry.place,
        entry.settled_ms,
        entry.id,
        entry.correction_of,
        invocation.user_id,
        invocation.agent_id,
        invocation.deployment_id,
        row.runtime_provider,
        row.period_key,
        invocation.at_ms,
        invocation.source,
        None if gateway is None else gateway.invocation_id,
        invocation.key_id,
        *astuple(entry.counters),
    )
