"""The relay: carries the outbox to the streams.

Consumes: the service's own outbox. Emits: its rows, to the subject each names.
Guarantees: at least once, and on each stream one aggregate's rows in their order: two rows of one
ordering key are never under way at once, and a row that was not acknowledged holds back those
behind it. A stream that does not acknowledge holds back no other one. One relay of a service is
active; one that hangs or can publish nothing is replaced. Nothing is published while `hold` says
that the stream may not be the one that the earlier rows went to.
Hot path: its own connection, which listens, and raw SQL, named at the end of the file.
On replay (a crash between publish and delete): the row is published again, with the same message
id; a fold skips the versions that it has seen.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import psycopg
import structlog
from nats.errors import Error as NatsError
from nats.js.errors import APIError
from prometheus_client import Counter
from psycopg.rows import TupleRow, dict_row
from webhost_contracts.subjects import TRACE_HEADER, TYPE_HEADER

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish
from webhost_kit.database.engine import connect_arguments
from webhost_kit.database.leadership import Leadership, WorkStuck
from webhost_kit.database.notifications import subscribe
from webhost_kit.database.refusals import note_refusal
from webhost_kit.eventsourcing.low_water import LowWater
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point

log = structlog.get_logger(__name__)

BATCH = 500
IDLE_S = 5.0
HELD_POLL_S = 0.05
RETRY_S = 2.0
"""How long a stream that did not acknowledge is left alone, while others do."""

_published = Counter(
    "webhost_outbox_rows_published_total", "Facts and commands that a stream acknowledged"
)


@dataclass(frozen=True)
class OutboxRow:
    """One message to be published."""

    serial: int
    ordering_key: str
    subject: str
    message_id: str
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """What the subject begins with: each stream has subjects of one kind."""
        return self.subject.partition(".")[0]

    def message(self) -> Message:
        """Return what is published for the row."""
        return Message(self.subject, self.body, self.headers, self.message_id)


@dataclass
class _Outcome:
    """What became of one look: how many were acknowledged, and which kinds were not, and why."""

    is_full: bool
    published: int = 0
    refused: dict[str, str] = field(default_factory=dict[str, str])


class Relay:
    """Publishes a service's outbox as long as it runs."""

    def __init__(self, dsn: str, bus: Bus, hold: Callable[[], str | None] = lambda: None) -> None:
        self._dsn = dsn
        self._bus = bus
        self._hold = hold
        self._leadership = Leadership(dsn, "relay", check=hold)
        self._refused: dict[str, str] = {}
        self._retry_at = 0.0

    def check(self) -> str | None:
        """Say what keeps the relay from publishing; waiting for another relay is healthy.

        What was refused stays so until a later try, also while it leads no more.
        """
        if self._refused and not self._leadership.waits:
            reasons = (f"{kind} ({why})" for kind, why in sorted(self._refused.items()))
            return f"not acknowledged: {', '.join(reasons)}"
        return self._leadership.check()

    async def run(self) -> None:
        """Relay whenever it is this process's turn; wait for a broken dependency."""
        await self._leadership.run(self._relay)

    async def _relay(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, application_name="relay", **connect_arguments()
        )
        try:
            async with connection:
                await subscribe(connection, "outbox")
                low_water = LowWater()
                while True:
                    while self._hold() is not None:  # noqa: ASYNC110 - a look costs nothing
                        await asyncio.sleep(HELD_POLL_S)
                    if await self._publish_all(connection, low_water):
                        continue
                    timeout = RETRY_S if self._refused else IDLE_S
                    async for _ in connection.notifies(timeout=timeout, stop_after=1):
                        pass
        except psycopg.Error as error:
            note_refusal(error)
            raise
        finally:
            self._retry_at = 0.0

    async def _publish_all(
        self, connection: psycopg.AsyncConnection[TupleRow], low_water: LowWater
    ) -> bool:
        """Publish up to one batch of each stream; say whether there may be more to do at once.

        Raises WorkStuck when nothing at all was acknowledged: another process may do better.
        """
        tries_all = monotonic() >= self._retry_at
        refused, published = dict[str, str]() if tries_all else self._refused, 0
        if tries_all:
            self._retry_at = monotonic() + RETRY_S
        while True:
            # Those that refuse are left out of the next look, so that it finds what is behind.
            outcome = await self._publish_waiting(connection, low_water, refused)
            refused = refused | outcome.refused
            published += outcome.published
            if not outcome.refused and not (refused and outcome.is_full):
                break
        self._refused = refused
        if tries_all and refused and not published:
            raise WorkStuck("the stream does not acknowledge")
        return outcome.is_full

    async def _publish_waiting(
        self,
        connection: psycopg.AsyncConnection[TupleRow],
        low_water: LowWater,
        without: Collection[str],
    ) -> _Outcome:
        """Publish up to one batch, but nothing of these kinds."""
        parameters = {
            "above": low_water.above(monotonic()),
            "batch": BATCH,
            "without": sorted(without),
        }
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(LOOK, parameters)
            found = await cursor.fetchall()
        rows = [
            OutboxRow(**{name: row[name] for name in OutboxRow.__dataclass_fields__})
            for row in found
            if row["serial"] is not None
        ]
        outcome = _Outcome(is_full=len(rows) == BATCH)
        for wave in in_waves(rows):
            if (reason := self._hold()) is not None:
                raise WorkStuck(reason)
            wanted = [row for row in wave if row.kind not in outcome.refused]
            failures = await self._publish(wanted)
            published = [row.serial for row in wanted if row.serial not in failures]
            crash_point("relay.published")
            if published:
                await connection.execute(DELETE, (published,))
                _published.inc(len(published))
                outcome.published += len(published)
            outcome.refused |= {
                row.kind: failures[row.serial] for row in wanted if row.serial in failures
            }
        if not outcome.refused and not without:
            seen_below = rows[-1].serial + 1 if outcome.is_full else found[0]["next_serial"]
            low_water.looked(seen_below, found[0]["next_xid"], found[0]["oldest_xid"])
        return outcome

    async def _publish(self, wave: Sequence[OutboxRow]) -> dict[int, str]:
        """Publish rows of different keys at once; return why some were not acknowledged."""
        results = await asyncio.gather(*map(self._failure, wave))
        return {row.serial: why for row, why in zip(wave, results, strict=True) if why is not None}

    async def _failure(self, row: OutboxRow) -> str | None:
        with _span_of(row) as span:
            try:
                await publish(self._bus, row.message())
            except (NatsError, TimeoutError, OSError) as error:
                span.fail(type(error).__name__)
                log.warning("publish failed", subject=row.subject, error=repr(error))
                return refusal_of(error)
        return None


def _span_of(row: OutboxRow) -> tracing.Span:
    return tracing.span(
        f"publish {row.headers.get(TYPE_HEADER, row.kind)}",
        "producer",
        traceparent=row.headers.get(TRACE_HEADER),
        attributes={
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.destination.name": row.kind,
            "messaging.message.id": row.message_id,
        },
    )


def refusal_of(error: Exception) -> str:
    """Return what the server said, or where it says more."""
    if isinstance(error, TimeoutError):
        return "no answer; the log of nats-server says why"
    return (isinstance(error, APIError) and error.description) or str(error)


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
    FROM outbox
    WHERE serial > %(above)s AND split_part(subject, '.', 1) <> ALL(%(without)s)
    ORDER BY serial LIMIT %(batch)s
) o ON true
ORDER BY o.serial
"""
