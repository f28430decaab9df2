"""What the holder of a partition does for its feed besides the fold.

Consumes: the time of the server that stores USAGE, where nothing arrives. Emits: entries in
`usage_feed`, as the fold does (see `store`).
Guarantees: what no message settles is settled by the time of the stream's server, once the
partition is folded to its end: each message from then on is stored later, and would have settled it
first.
On replay: what is settled is not there to be settled again.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from time import monotonic

import msgspec
import structlog
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from webhost_contracts import subjects
from webhost_kit.bus.connection import REQUEST_TIMEOUT_S, Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint

from webhost_billing import generations
from webhost_billing.feed import statements, store
from webhost_billing.feed.decisions import WAIT_MS
from webhost_billing.feed.store import DAY_MS, FEED_DAYS

log = structlog.get_logger(__name__)

CHECK_S = 30.0
REMOVE_EVERY_S = 3_600.0
CHUNK = 5_000


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
            oldest_ms = await connection.scalar(statements.OLDEST_WAITING, {"partition": partition})
        if oldest_ms is None or oldest_ms + WAIT_MS > now_ms():
            return
        more = True
        while more:
            more = await self._settled_some(partition)

    async def _settled_some(self, partition: int) -> bool:
        """Settle a chunk of what is due by the stream's server; say whether there may be more."""
        created_at, at_ms = await _stream_now(self._bus)
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
                statements.READ_WAITING, {"partition": partition, "keys": []}
            )
            due_ms = max(int(before.one().stream_ms), at_ms) - WAIT_MS
            beyond_ms: int | None = await connection.scalar(
                statements.BEYOND_CHUNK, {"partition": partition, "most": CHUNK}
            )
            upto_ms = due_ms if beyond_ms is None else min(beyond_ms, due_ms)
            await store.settle_up_to(connection, partition, live, upto_ms + WAIT_MS)
        return upto_ms < due_ms

    async def _remove_old(self, partition: int) -> None:
        before_ms = now_ms() - FEED_DAYS * DAY_MS
        removed = CHUNK
        while removed == CHUNK:
            async with self._database.transaction() as connection:
                found = await connection.execute(
                    statements.REMOVE_OLD,
                    {"partition": partition, "before_ms": before_ms, "most": CHUNK},
                )
                removed = found.scalar() or 0


class _Answered(msgspec.Struct):
    ts: datetime


async def _stream_now(bus: Bus) -> tuple[str, int]:
    """Return when USAGE was created, and the time by which its messages are stored, in ms.

    Raises NatsError or Unavailable.
    """
    reply = await bus.client.request(
        f"$JS.API.STREAM.INFO.{subjects.USAGE}", timeout=REQUEST_TIMEOUT_S
    )
    try:
        at = msgspec.json.decode(reply.data, type=_Answered).ts
    except msgspec.DecodeError as error:
        raise Unavailable(f"the stream {subjects.USAGE} does not say what time it is") from error
    info = StreamInfo.from_response(msgspec.json.decode(reply.data))
    return str(info.created), int(at.timestamp() * 1000)
