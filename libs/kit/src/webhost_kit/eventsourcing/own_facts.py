"""After a restore: a service compares its event table with its own facts on the stream.

Consumes: the service's own kinds of EVENTS, as the projection `<service>.own-facts`, whose
checkpoint is a row of the same database and so is restored with it.
Guarantees: nothing is appended on a database that may be older than the stream. At start, and when
the database was restarted, replaced or restored under its clients, `append` refuses until every own
fact on the stream is in the event table; those that lacked were taken back, with their state rows
and without an outbox entry.
Where that cannot be done (the same version of an aggregate is another event there, or the stream
itself was lost or lost its tail), the projection halts with one line that says so, and appends stay
refused until an operator has decided.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import sqlalchemy as sa
import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events.base import Event

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.store import NOTHING_VERIFIED, events_table, insert_events

log = structlog.get_logger(__name__)

POLL_S = 0.1
LOOK_S = 0.5

TakeBack = Callable[[AsyncConnection, Fact], Awaitable[None]]
"""Makes the state rows what this fact, the next of its aggregate, says."""


class OwnFacts:
    """Lets facts be appended only where none of the service's own are missing."""

    def __init__(
        self,
        service: str,
        database: Database,
        bus: Bus,
        filters: Sequence[str],
        types: Mapping[str, type[Event]],
        take_back: TakeBack,
    ) -> None:
        self._filters = filters
        self._database = database
        self._bus = bus
        self._take_back = take_back
        self.projector = Projector(
            f"{service}.own-facts",
            database,
            bus,
            subjects.EVENTS,
            self._filters,
            types,
            self._fold,
        )
        database.verified = NOTHING_VERIFIED

    def check(self) -> str | None:
        """Say what keeps facts from being appended."""
        if self._database.verified == NOTHING_VERIFIED:
            return self.projector.check() or "own facts not compared with the stream yet"
        return None

    def note(self) -> str | None:
        """Say how many own facts could not be taken back."""
        return self.projector.note()

    async def run(self) -> None:
        """Follow own facts, and verify each incarnation of the database."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.projector.run())
            group.create_task(self._verify())

    async def _verify(self) -> None:
        while True:
            try:
                incarnation = await self._incarnation()
                if incarnation != self._database.verified:
                    self._database.verified = NOTHING_VERIFIED
                    await self._compared(incarnation)
                    self._database.verified = incarnation
                    log.info("own facts compared with the stream", incarnation=incarnation)
            except (Unavailable, NatsError, TimeoutError, OSError) as error:
                log.warning("own facts not compared yet", reason=str(error))
            await asyncio.sleep(LOOK_S)

    async def _compared(self, incarnation: str) -> None:
        """Return when every own fact that is on the stream by now is in the event table."""
        last = max([await self._last_sequence(pattern) for pattern in self._filters])
        created_at = str((await self._bus.js.stream_info(subjects.EVENTS)).created)
        while True:
            async with self._database.transaction() as connection:
                if _incarnation_of(connection) != incarnation:
                    raise Unavailable("The database was restarted; comparing again.")
                checkpoint = await read_checkpoint(connection, self.projector.name)
            if last == 0 or (
                checkpoint is not None
                and checkpoint.stream_created_at == created_at
                and checkpoint.sequence >= last
            ):
                return
            await asyncio.sleep(POLL_S)

    async def _incarnation(self) -> str:
        async with self._database.transaction() as connection:
            return _incarnation_of(connection)

    async def _last_sequence(self, pattern: str) -> int:
        try:
            return (await self._bus.js.get_last_msg(subjects.EVENTS, pattern)).seq or 0
        except NotFoundError:
            return 0

    async def _fold(
        self, connection: AsyncConnection, facts: Sequence[Fact], _behind: Checkpoint
    ) -> None:
        here = await _events_here(connection, facts)
        for fact in facts:
            envelope = fact.envelope
            key = (envelope.aggregate_id, envelope.version)
            if (known := here.get(key)) is None:
                await self._require_next(connection, fact)
                await insert_events(connection, [envelope], [fact.event])
                await self._take_back(connection, fact)
                here[key] = envelope.event_id
                log.warning("fact taken back", aggregate=key[0], version=key[1])
            elif known != envelope.event_id:
                raise StreamDiverged(
                    f"version {envelope.version} of {envelope.aggregate_id} is {known} in the"
                    f" event table and {envelope.event_id} on {subjects.EVENTS}: one of the two"
                    " histories has to go"
                )

    async def _require_next(self, connection: AsyncConnection, fact: Fact) -> None:
        envelope = fact.envelope
        newest = await connection.scalar(
            sa.select(sa.func.max(events_table.c.version)).where(
                events_table.c.aggregate_id == envelope.aggregate_id
            )
        )
        if (newest or 0) + 1 != envelope.version:
            raise StreamDiverged(
                f"{subjects.EVENTS} holds version {envelope.version} of {envelope.aggregate_id},"
                f" the event table ends at {newest or 0}: what is between them is on neither"
            )


async def _events_here(
    connection: AsyncConnection, facts: Sequence[Fact]
) -> dict[tuple[str, int], str]:
    keys = {(fact.envelope.aggregate_id, fact.envelope.version) for fact in facts}
    found = await connection.execute(
        sa.select(
            events_table.c.aggregate_id, events_table.c.version, events_table.c.event_id
        ).where(sa.tuple_(events_table.c.aggregate_id, events_table.c.version).in_(keys))
    )
    return {(row.aggregate_id, row.version): row.event_id for row in found}


def _incarnation_of(connection: AsyncConnection) -> str:
    return str(connection.info["incarnation"])
