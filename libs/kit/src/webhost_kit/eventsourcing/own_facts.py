"""After a restore: a service compares its event table with its own facts on the stream.

Consumes: the service's own kinds of EVENTS, as the projection `<service>.own-facts`, whose
checkpoint is a row of the same database and so is restored with it.
Guarantees: nothing is appended on a database that may be older than the stream, and nothing is
relayed to a stream that may be older than the database. At start, and when the database was
restarted, replaced or restored under its clients, `append` refuses until every own fact on the
stream is in the event table; missing ones are recovered, with their state rows and without an
outbox entry. After each reconnect to the bus the relay waits for the same comparison.
The comparison is from the stream to the table. The other direction is by the checkpoint, which a
stream that lost its tail does not reach; so it is only reset where the stream lacks no fact.
Where the histories differ (the same version of an aggregate is another event there, or the stream
itself was lost or lost its tail), the projection halts with one line that says so, and appends and
the relay wait until an operator has decided. They wait as well while the stream is missing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from time import monotonic

import sqlalchemy as sa
import structlog
from nats.errors import Error as NatsError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events.base import Event
from webhost_contracts.maintenance import RepublishProgress

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, StreamMissing, Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.republish import republish
from webhost_kit.eventsourcing.store import NOTHING_VERIFIED, events_table, insert_events
from webhost_kit.tasks import run_together

log = structlog.get_logger(__name__)

POLL_INTERVAL_S = 0.1
VERIFY_INTERVAL_S = 0.5
AGAIN_S = 3.0
"""How often to compare again: a stream may also be lost while the connection stays up."""

Recover = Callable[[AsyncConnection, Fact], Awaitable[None]]
"""Evolves the state rows by this fact, the next of its aggregate."""


class OwnFacts:
    """Lets facts be appended only where none of the service's own are missing."""

    def __init__(
        self,
        service: str,
        database: Database,
        bus: Bus,
        filters: Sequence[str],
        types: Mapping[str, type[Event]],
        recover: Recover,
    ) -> None:
        self._filters = filters
        self._types = types
        self._database = database
        self._bus = bus
        self._recover = recover
        self.projector = Projector(
            f"{service}.own-facts",
            database,
            bus,
            subjects.EVENTS,
            self._filters,
            types,
            self._fold,
        )
        self._reconnects: int | None = None
        database.verified = NOTHING_VERIFIED

    def check(self) -> str | None:
        """Say what keeps facts from being appended or relayed."""
        if self._settled:
            return None
        return self.projector.check() or "own facts not compared with the stream yet"

    @property
    def _settled(self) -> bool:
        compared = self._database.verified != NOTHING_VERIFIED
        return compared and self._reconnects == self._bus.reconnects

    def note(self) -> str | None:
        """Say how many own facts could not be recovered."""
        return self.projector.note()

    def republish(self, *, dry_run: bool) -> AsyncIterator[RepublishProgress]:
        """Put own facts that the stream lacks back onto it, or only say how many there are."""
        return republish(self._database, self._bus, self._filters, self._types, dry_run=dry_run)

    async def require_whole(self) -> None:
        """Return where the stream lacks no own fact but those that wait in the outbox.

        Raises StreamDiverged where it does, and as `republish` does. Reads all of the history.
        """
        lost = 0
        async for progress in self.republish(dry_run=True):
            lost = progress.lost
        if lost:
            raise StreamDiverged(
                f"{subjects.EVENTS} lacks {lost} of this service's facts: "
                "`webhost streams republish` first"
            )

    async def run(self) -> None:
        """Follow own facts, and verify each incarnation of the database."""
        await run_together(self.projector.run(), self._verify())

    async def _verify(self) -> None:
        checked_at = 0.0
        while True:
            try:
                incarnation, reconnects = await self._incarnation(), self._bus.reconnects
                if incarnation != self._database.verified:
                    self._database.verified = NOTHING_VERIFIED
                if not self._settled:
                    await self._compared(incarnation)
                    self._database.verified, self._reconnects = incarnation, reconnects
                    log.info("own facts compared with the stream", incarnation=incarnation)
                elif monotonic() - checked_at > AGAIN_S:
                    await self._checkpoint(incarnation)
                    checked_at = monotonic()
            except (StreamDiverged, StreamMissing) as error:
                # A stream that is missing is another one as soon as it is there again.
                if self._database.verified != NOTHING_VERIFIED:
                    log.error("own facts differ from the stream", reason=str(error))
                self._database.verified = NOTHING_VERIFIED
            except (Unavailable, NatsError, TimeoutError, OSError) as error:
                log.warning("own facts not compared yet", reason=str(error))
            await asyncio.sleep(VERIFY_INTERVAL_S)

    async def _compared(self, incarnation: str) -> None:
        """Return when every own fact that is on the stream by now is in the event table.

        Raises StreamDiverged where the stream is not the one that was folded, and StreamMissing.
        """
        last = max(
            [await self._bus.last_sequence(subjects.EVENTS, pattern) for pattern in self._filters]
        )
        while await self._checkpoint(incarnation) < last:  # noqa: ASYNC110 - moved elsewhere
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _checkpoint(self, incarnation: str) -> int:
        """Return up to where own facts are compared. Raises as `_compared` does."""
        async with self._database.transaction() as connection:
            if _incarnation_of(connection) != incarnation:
                raise Unavailable("The database was restarted; comparing again.")
            checkpoint = await read_checkpoint(connection, self.projector.name)
        await self.projector.verify(checkpoint)
        if (problem := self.projector.check() or "").startswith("halted"):
            raise StreamDiverged(problem)
        return checkpoint.sequence if checkpoint else 0

    async def _incarnation(self) -> str:
        async with self._database.transaction() as connection:
            return _incarnation_of(connection)

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
                await self._recover(connection, fact)
                here[key] = envelope.event_id
                log.warning("fact recovered", aggregate=key[0], version=key[1])
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
