"""The relay: carries the outbox to the streams.

Consumes: the service's own outbox. Emits: its rows, to the subject each names.
Guarantees: at least once, and one aggregate's rows in their order: two rows of one ordering key
are never under way at once, and a row that was not acknowledged holds back those behind it.
One relay of a service is active; the others wait on its lock.
On replay (a crash between publish and mark): the row is published again, with the same message
id where it goes alone; whoever folds skips versions, or invocations, that it has seen.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter, Gauge
from psycopg import sql
from psycopg.rows import TupleRow, class_row

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish_together
from webhost_kit.database.engine import connect_arguments
from webhost_kit.process.crashpoints import crash_point

log = structlog.get_logger(__name__)

BATCH = 500
IDLE_S = 5.0
RETRY_S = 0.5
USAGE_PREFIX = "usage."
"""These go together, atomically: a usage fact is recognised by the invocation it is about."""

_published = Counter("webhost_relay_published_total", "Outbox rows that a stream acknowledged")
_waiting = Gauge("webhost_relay_waiting", "Outbox rows seen at the last look")


@dataclass(frozen=True)
class OutboxRow:
    """One message that waits to be published."""

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
    """Publishes a service's outbox for as long as it runs.

    `linger_s` lies between two rounds: more rows share one, where a moment is no matter.
    """

    def __init__(self, dsn: str, bus: Bus, *, linger_s: float = 0.0) -> None:
        self._linger_s = linger_s
        self._dsn = dsn
        self._bus = bus
        self._problem: str | None = "starting"

    def check(self) -> str | None:
        """Say what keeps the relay from publishing. Waiting behind another relay is well."""
        return self._problem

    async def run(self) -> None:
        """Relay for ever; a broken dependency is waited for."""
        while True:
            try:
                await self._relay()
            except (psycopg.OperationalError, OSError) as error:
                self._problem = f"database away: {type(error).__name__}"
                log.warning("relay interrupted", error=str(error).partition("\n")[0])
                await asyncio.sleep(RETRY_S)

    async def _relay(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, **connect_arguments()
        )
        async with connection:
            self._problem = None
            while not await _is_active(connection):  # noqa: ASYNC110 - held by another process
                await asyncio.sleep(RETRY_S)
            await _listen(connection)
            while True:
                if await self._publish_waiting(connection):
                    await asyncio.sleep(self._linger_s)
                    continue
                async for _ in connection.notifies(timeout=IDLE_S, stop_after=1):
                    pass

    async def _publish_waiting(self, connection: psycopg.AsyncConnection[TupleRow]) -> bool:
        """Publish up to one batch; say whether there may be more to do at once."""
        async with connection.cursor(row_factory=class_row(OutboxRow)) as cursor:
            await cursor.execute(
                "SELECT serial, ordering_key, subject, message_id, headers, body"
                " FROM outbox ORDER BY serial LIMIT %s",
                (BATCH,),
            )
            rows = await cursor.fetchall()
        _waiting.set(len(rows))
        for wave in in_waves(rows):
            done = await self._publish(wave)
            crash_point("relay.published")
            await connection.execute("DELETE FROM outbox WHERE serial = ANY(%s)", (done,))
            _published.inc(len(done))
            if len(done) < len(wave):
                self._problem = "bus away: publish not acknowledged"
                await asyncio.sleep(RETRY_S)
                return True
        self._problem = None
        return bool(rows)

    async def _publish(self, wave: Sequence[OutboxRow]) -> list[int]:
        """Publish rows of which no two share a key; return the serials of those stored."""
        usage = [row for row in wave if row.subject.startswith(USAGE_PREFIX)]
        singles = [row for row in wave if not row.subject.startswith(USAGE_PREFIX)]
        groups = [*([usage] if usage else []), *([row] for row in singles)]
        stored = await asyncio.gather(*map(self._stored, groups))
        return [row.serial for group in stored for row in group]

    async def _stored(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """Return the rows once the stream holds them, none of them in any doubt."""
        try:
            await publish_together(self._bus, [row.message() for row in rows])
        except (NatsError, TimeoutError, OSError) as error:
            log.warning(
                "publish failed", subject=rows[0].subject, rows=len(rows), error=repr(error)
            )
            return ()
        return rows


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


async def _is_active(connection: psycopg.AsyncConnection[TupleRow]) -> bool:
    cursor = await connection.execute(
        "SELECT pg_try_advisory_lock(hashtext('relay'), hashtext(current_schema()))"
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def _listen(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    cursor = await connection.execute("SELECT current_schema() || '.outbox'")
    row = await cursor.fetchone()
    channel = sql.Identifier(str(row[0] if row else "outbox"))
    await connection.execute(sql.SQL("LISTEN {}").format(channel))
