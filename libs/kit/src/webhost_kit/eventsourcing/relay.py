"""The relay: carries the outbox to the streams.

Consumes: the service's own outbox. Emits: its rows, to the subject each names.
Guarantees: at least once, and one aggregate's rows in their order: two rows of one ordering key
are never under way at once, and a row that was not acknowledged holds back those behind it. One
relay of a service is active; one that hangs or cannot publish is replaced. Nothing is published
while `hold` says that the stream may not be the one that the earlier rows went to.
Hot path: its own connection, which listens, and raw SQL, named at the end of the file.
On replay (a crash between publish and delete): the row is published again, with the same message
id; a fold skips the versions that it has seen.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

import psycopg
import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter, Gauge
from psycopg import sql
from psycopg.rows import TupleRow, dict_row

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish
from webhost_kit.database.engine import connect_arguments
from webhost_kit.database.leadership import Leadership, WorkStuck
from webhost_kit.eventsourcing.low_water import LowWater
from webhost_kit.process.crashpoints import crash_point

log = structlog.get_logger(__name__)

BATCH = 500
IDLE_S = 5.0
HELD_POLL_S = 0.05

_published = Counter("webhost_relay_published_total", "Outbox rows that a stream acknowledged")
_waiting = Gauge("webhost_relay_waiting", "Outbox rows seen at the last poll")


@dataclass(frozen=True)
class OutboxRow:
    """One message to be published."""

    serial: int
    ordering_key: str
    subject: str
    message_id: str
    headers: dict[str, str]
    body: bytes

    def message(self) -> Message:
        """Return what is published for the row."""
        return Message(self.subject, self.body, self.headers, self.message_id)


class Relay:
    """Publishes a service's outbox as long as it runs."""

    def __init__(self, dsn: str, bus: Bus, hold: Callable[[], str | None] = lambda: None) -> None:
        self._dsn = dsn
        self._bus = bus
        self._hold = hold
        self._leadership = Leadership(dsn, "relay", check=hold)

    def check(self) -> str | None:
        """Say what keeps the relay from publishing; waiting for another relay is healthy."""
        return self._leadership.check()

    async def run(self) -> None:
        """Relay whenever it is this process's turn; wait for a broken dependency."""
        await self._leadership.run(self._relay)

    async def _relay(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, application_name="relay", **connect_arguments()
        )
        async with connection:
            await _listen(connection)
            low_water = LowWater()
            while True:
                while self._hold() is not None:  # noqa: ASYNC110 - a look costs nothing
                    await asyncio.sleep(HELD_POLL_S)
                if await self._publish_waiting(connection, low_water):
                    continue
                async for _ in connection.notifies(timeout=IDLE_S, stop_after=1):
                    pass

    async def _publish_waiting(
        self, connection: psycopg.AsyncConnection[TupleRow], low_water: LowWater
    ) -> bool:
        """Publish up to one batch; say whether there may be more to do at once.

        Raises WorkStuck when something was not acknowledged: another process may do better.
        """
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(LOOK, {"above": low_water.above(monotonic()), "batch": BATCH})
            found = await cursor.fetchall()
        rows = [
            OutboxRow(**{name: row[name] for name in OutboxRow.__dataclass_fields__})
            for row in found
            if row["serial"] is not None
        ]
        _waiting.set(len(rows))
        seen_below = rows[-1].serial + 1 if len(rows) == BATCH else found[0]["next_serial"]
        low_water.looked(seen_below, found[0]["next_xid"], found[0]["oldest_xid"])
        for wave in in_waves(rows):
            if (reason := self._hold()) is not None:
                raise WorkStuck(reason)
            published = await self._publish(wave)
            crash_point("relay.published")
            if published:
                await connection.execute(DELETE, (published,))
                _published.inc(len(published))
            if len(published) < len(wave):
                raise WorkStuck("the stream does not acknowledge")
        return len(rows) == BATCH

    async def _publish(self, wave: Sequence[OutboxRow]) -> list[int]:
        """Publish rows of different keys at once; return the serials that were acknowledged."""
        results = await asyncio.gather(*map(self._stored, wave))
        return [row.serial for row, stored in zip(wave, results, strict=True) if stored]

    async def _stored(self, row: OutboxRow) -> bool:
        try:
            await publish(self._bus, row.message())
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("publish failed", subject=row.subject, error=repr(error))
            return False
        return True


def in_waves(rows: Iterable[OutboxRow]) -> list[list[OutboxRow]]:
    """Split rows so that each wave holds at most one of a key, and order within a key stays."""
    waves: list[list[OutboxRow]] = []
    seen: Tally[str] = Tally()
    for row in rows:
        number = seen[row.ordering_key]
        if number == len(waves):
            waves.append([])
        waves[number].append(row)
        seen[row.ordering_key] += 1
    return waves


async def _listen(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    cursor = await connection.execute("SELECT current_schema() || '.outbox'")
    row = await cursor.fetchone()
    channel = sql.Identifier(str(row[0] if row else "outbox"))
    await connection.execute(sql.SQL("LISTEN {}").format(channel))


DELETE = "DELETE FROM outbox WHERE serial = ANY(%s)"

# One row at least, so that what the low-water mark rests on comes from the same snapshot.
LOOK = """
SELECT o.*, s.* FROM (
    SELECT
        (SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END
            FROM outbox_serial_seq) AS next_serial,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_xid
) s
LEFT JOIN LATERAL (
    SELECT serial, ordering_key, subject, message_id, headers, body
    FROM outbox WHERE serial > %(above)s ORDER BY serial LIMIT %(batch)s
) o ON true
ORDER BY o.serial
"""
