"""Republishes a service's own facts to a stream that was lost, or lost its tail.

Consumes: EVENTS from its start, then the event table. Emits: each fact that the stream lacks, in
the order of its aggregate, without a message id (the server may still remember it).
Guarantees: what the stream holds is not published again, and nothing is published after a later
version of its aggregate; memory does not grow with the history.
On replay: facts that were republished are found on the stream and skipped.
It waits for nobody: a stream that is missing, or silent for SILENCE_S, ends it with a clear error.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing

import msgspec
import sqlalchemy as sa
from nats.errors import Error as NatsError
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects, wire
from webhost_contracts.events.base import Envelope, Event
from webhost_contracts.maintenance import RepublishProgress

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish
from webhost_kit.bus.reader import Batch, StreamReader
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.held_facts import held_facts
from webhost_kit.eventsourcing.outbox import outbox
from webhost_kit.eventsourcing.store import events_table

CHUNK = 500
SILENCE_S = 20.0


class _Place(msgspec.Struct, rename="camel"):
    aggregate_id: str
    version: int


async def republish(
    database: Database,
    bus: Bus,
    filters: Sequence[str],
    types: Mapping[str, type[Event]],
    *,
    dry_run: bool,
) -> AsyncIterator[RepublishProgress]:
    """Yield progress until everything is there; the last one has `done`.

    Raises NatsError in doubt, Unavailable (StreamMissing where there is no stream), and
    StreamDiverged where facts would come too late.
    """
    progress = RepublishProgress()
    reader = StreamReader(bus, subjects.EVENTS, filters, batch_size=5_000)
    await reader.verified(None)
    async with database.engine.begin() as connection:
        # As of now: what is published from here on is neither found on the stream nor missed.
        await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        # It waits for the bus meanwhile, and locks nothing that others need.
        await connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))
        await connection.execute(_one_at_a_time)
        await connection.execute(sa.select(sa.func.now()))
        async with aclosing(_until_silent(reader.batches(None))) as batches:
            async for batch in batches:
                progress = msgspec.structs.replace(
                    progress, held=progress.held + await _remember(connection, batch)
                )
                yield progress
                if batch.pending == 0:
                    break
        missing = (await connection.execute(_count_missing)).one()
        progress = msgspec.structs.replace(progress, missing=missing.all, lost=missing.lost)
        yield progress
        if not dry_run:
            if (place := (await connection.execute(_out_of_order)).first()) is not None:
                raise StreamDiverged(
                    f"{subjects.EVENTS} holds version {place.version} of {place.aggregate_id}"
                    " without those before it; the database holds all of them: republish --purge"
                )
            async for published in _publish_missing(connection, bus, types):
                progress = msgspec.structs.replace(progress, published=published)
                yield progress
        await connection.execute(sa.delete(held_facts))
    yield msgspec.structs.replace(progress, done=True)


async def _until_silent(batches: AsyncGenerator[Batch]) -> AsyncGenerator[Batch]:
    """Yield these. Raises Unavailable once none comes for SILENCE_S."""
    async with aclosing(batches):
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    batch = await anext(batches)
            except TimeoutError as error:
                raise Unavailable(
                    f"{subjects.EVENTS} is silent; the command may be repeated"
                ) from error
            yield batch


async def _remember(connection: AsyncConnection, batch: Batch) -> int:
    places = {
        (place.aggregate_id, place.version)
        for message in batch.messages
        if (place := _place_of(message.body)) is not None
    }
    if places:
        await connection.execute(
            insert(held_facts).on_conflict_do_nothing(),
            [{"aggregate_id": id_, "version": version} for id_, version in places],
        )
    return len(places)


def _place_of(body: bytes) -> _Place | None:
    try:
        return msgspec.json.decode(body, type=_Place)
    except msgspec.DecodeError:
        return None


_one_at_a_time = sa.text("LOCK TABLE held_facts IN EXCLUSIVE MODE")

_missing = (
    sa.select(
        events_table.c.aggregate_id,
        events_table.c.version,
        events_table.c.envelope,
        events_table.c.event_id,
    )
    .outerjoin(
        held_facts,
        sa.and_(
            held_facts.c.aggregate_id == events_table.c.aggregate_id,
            held_facts.c.version == events_table.c.version,
        ),
    )
    .where(held_facts.c.version.is_(None))
    .subquery()
)

_waits = sa.exists().where(outbox.c.message_id == _missing.c.event_id)

_count_missing = sa.select(
    sa.func.count().label("all"), sa.func.count().filter(~_waits).label("lost")
).select_from(_missing)

_out_of_order = (
    sa.select(held_facts.c.aggregate_id, held_facts.c.version)
    .join(_missing, _missing.c.aggregate_id == held_facts.c.aggregate_id)
    .where(_missing.c.version < held_facts.c.version)
    .limit(1)
)


async def _publish_missing(
    connection: AsyncConnection, bus: Bus, types: Mapping[str, type[Event]]
) -> AsyncIterator[int]:
    published = 0
    query = sa.select(_missing.c.envelope).order_by(_missing.c.aggregate_id, _missing.c.version)
    async with connection.stream(query.execution_options(yield_per=CHUNK)) as rows:
        async for row in rows:
            envelope = wire.decode(bytes(row.envelope), Envelope)
            event = envelope.event(types)
            if event is None:
                raise NatsError(
                    f"{envelope.event_id} is of the unknown type {envelope.type_name()}"
                )
            await publish(bus, _message(envelope, event, bytes(row.envelope)))
            published += 1
            if published % CHUNK == 0:
                yield published
    yield published


def _message(envelope: Envelope, event: Event, body: bytes) -> Message:
    return Message(
        subject=event.published_on(envelope.user_id, envelope.aggregate_id),
        body=body,
        headers={subjects.TYPE_HEADER: event.type_name()},
    )
