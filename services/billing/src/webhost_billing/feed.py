"""The feed of settled usage: stated beside the fold, and for partitions in which nothing arrives.

Consumes: the steps of each folded batch, in the fold's transaction; where nothing arrives, the time
of the server that stores USAGE.
Emits: entries in `usage_feed`, which `feed_queries` reads.
Guarantees: every entry once, in the transaction of the fold that it follows from; in each partition
the same entries in the same order wherever batches end, see `settling`. What no message settles is
settled by the time of the stream's server, once the partition is folded to its end: each message
from then on is stored later, and would have settled it first. A rebuild states nothing.
On replay (the stream is read again, or is another one): what is known changes nothing, so nothing
is stated; numbers and the partition's time go on from where they were.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import Any

import msgspec
import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.connection import REQUEST_TIMEOUT_S, Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import Fact

from webhost_billing import feed_statements, generations
from webhost_billing.folding import Changes
from webhost_billing.settling import WAIT_MS, Entry, Settled, settle
from webhost_billing.tables import COUNTERS

log = structlog.get_logger(__name__)

KEPT_DAYS = 100
"""A month is sealed 36 days after its end: all of it can be exported for a month after that."""
CHECK_S = 30.0
REMOVE_EVERY_S = 3_600.0
CHUNK = 5_000
DAY_MS = 24 * 3_600_000

_stated = Counter("webhost_billing_feed_entries_total", "Entries stated in the feed of usage")


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
        feed_statements.READ_WAITING, {"partition": partition, "keys": list(keys)}
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
    found = await connection.execute(
        feed_statements.READ_WAITING, {"partition": partition, "keys": []}
    )
    stream_ms = int(found.one().stream_ms)
    await connection.execute(
        feed_statements.SEALED_ARE_DUE,
        {
            "partition": partition,
            "generation": generation,
            "stream_ms": stream_ms,
            "through": through,
        },
    )
    await _state(connection, partition, generation, Settled(stream_ms))


async def _state(
    connection: AsyncConnection, partition: int, generation: int, settled: Settled
) -> None:
    result = await connection.execute(
        feed_statements.STATE,
        {
            "partition": partition,
            "generation": generation,
            "stream_ms": settled.stream_ms,
            "done": settled.done,
            "waiting": _json(
                {"key": f"\\x{key.hex()}", "partition": partition, "since_ms": since_ms}
                for key, since_ms in settled.waiting.items()
            ),
            "entries": _json(map(_row, settled.entries)),
        },
    )
    _stated.inc(result.rowcount)


class FeedKeeper:
    """What the holder of a partition does for its feed besides the fold."""

    def __init__(self, database: Database, bus: Bus, checkpoints: Sequence[str]) -> None:
        """Take the names of the partitions' checkpoints, in order."""
        self._database = database
        self._bus = bus
        self._checkpoints = checkpoints

    async def run(self, partition: int) -> None:
        """Settle what nothing else does, and remove what is old, until cancelled."""
        removed_at = -REMOVE_EVERY_S
        while True:
            try:
                await self._settle(partition)
                if monotonic() - removed_at >= REMOVE_EVERY_S:
                    await self._remove_old(partition)
                    removed_at = monotonic()
            except (Unavailable, NatsError, OSError, TimeoutError) as error:
                log.warning("feed not kept; trying again", partition=partition, error=repr(error))
            await asyncio.sleep(CHECK_S)

    async def _settle(self, partition: int) -> None:
        async with self._database.transaction() as connection:
            oldest_ms = await connection.scalar(
                feed_statements.OLDEST_WAITING, {"partition": partition}
            )
        if oldest_ms is None or oldest_ms + WAIT_MS > now_ms():
            return
        more = True
        while more:
            more = await self._settled_some(partition)

    async def _settled_some(self, partition: int) -> bool:
        """Settle a chunk of what is due by the stream's server; say whether there may be more."""
        at_ms = await _time_of_stream(self._bus)
        created_at = str((await self._bus.js.stream_info(subjects.USAGE)).created)
        last = await self._bus.last_sequence(subjects.USAGE, subjects.usage_partition(partition))
        async with self._database.transaction() as connection:
            name = self._checkpoints[partition]
            checkpoint = await read_checkpoint(connection, name, lock=True)
            if checkpoint is None or checkpoint.sequence < last:
                return False
            if checkpoint.stream_created_at != created_at:
                return False
            live = await generations.hold(connection)
            before = await connection.execute(
                feed_statements.READ_WAITING, {"partition": partition, "keys": []}
            )
            due_ms = max(int(before.one().stream_ms), at_ms) - WAIT_MS
            beyond_ms: int | None = await connection.scalar(
                feed_statements.BEYOND_CHUNK, {"partition": partition, "most": CHUNK}
            )
            upto_ms = due_ms if beyond_ms is None else min(beyond_ms, due_ms)
            await _state(connection, partition, live, Settled(upto_ms + WAIT_MS))
        return upto_ms < due_ms

    async def _remove_old(self, partition: int) -> None:
        before_ms = now_ms() - KEPT_DAYS * DAY_MS
        removed = CHUNK
        while removed == CHUNK:
            async with self._database.transaction() as connection:
                found = await connection.execute(
                    feed_statements.REMOVE_OLD,
                    {"partition": partition, "before_ms": before_ms, "most": CHUNK},
                )
                removed = found.scalar() or 0


class _StreamInfo(msgspec.Struct):
    ts: datetime


async def _time_of_stream(bus: Bus) -> int:
    """Return the time by which USAGE's messages are stored. Raises NatsError or Unavailable."""
    reply = await bus.client.request(
        f"$JS.API.STREAM.INFO.{subjects.USAGE}", timeout=REQUEST_TIMEOUT_S
    )
    try:
        info = msgspec.json.decode(reply.data, type=_StreamInfo)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the stream {subjects.USAGE} does not say what time it is") from error
    return int(info.ts.timestamp() * 1000)


def _row(entry: Entry) -> dict[str, Any]:
    invocation, row = entry.charged.invocation, entry.charged.charge.row
    gateway = invocation.gateway
    return {
        "number": entry.place,
        "settled_ms": entry.settled_ms,
        "id": entry.id,
        "correction_of": entry.correction_of,
        "user_id": invocation.user_id,
        "agent_id": invocation.agent_id,
        "deployment_id": invocation.deployment_id,
        "runtime_provider": row.runtime_provider,
        "period_key": row.period_key,
        "at_ms": invocation.at_ms,
        "source": invocation.source,
        "invocation_id": None if gateway is None else gateway.invocation_id,
        "key_id": invocation.key_id,
        **{name: str(getattr(entry.counters, name)) for name in COUNTERS},
    }


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return msgspec.json.encode(list(rows)).decode()
