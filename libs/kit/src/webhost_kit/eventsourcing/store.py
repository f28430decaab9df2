"""The event table and its outbox: how a service states facts.

Guarantees: a fact, the state row evolved from it and its outbox entry are one transaction;
`(aggregate_id, version)` is unique and versions have no gaps; the table is append-only.
On replay: the event table can be published again from the start, with the same event ids.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids, subjects, wire
from webhost_contracts.commands import Command
from webhost_contracts.events.base import Envelope, Event, data_of

from webhost_kit.clock import now_ms
from webhost_kit.database.engine import is_unique_violation
from webhost_kit.errors import Unavailable, VersionConflict
from webhost_kit.eventsourcing.checkpoints import projection_tables
from webhost_kit.eventsourcing.held_facts import held_facts_table
from webhost_kit.eventsourcing.outbox import outbox, outbox_table
from webhost_kit.process import tracing


def event_tables(metadata: sa.MetaData) -> None:
    """Add what a service needs that states facts: events, outbox, checkpoints of projections."""
    _events_table(metadata)
    outbox_table(metadata)
    held_facts_table(metadata)
    projection_tables(metadata)


def _events_table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "events",
        metadata,
        sa.Column("aggregate_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("occurred_at_ms", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
    )


events_table = _events_table(sa.MetaData())

NOTHING_VERIFIED = ""
"""What `Database.verified` is while nothing may be appended."""


@dataclass(frozen=True)
class EventMetadata:
    """Who causes a fact, and in which context."""

    actor: str
    request_id: str | None = None
    traceparent: str | None = field(default_factory=tracing.traceparent)
    causation_id: str | None = None
    at_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True)
class Decided:
    """A fact that is to be appended to one aggregate, behind this version of it."""

    aggregate_id: str
    user_id: str
    after_version: int
    event: Event


async def append(
    connection: AsyncConnection,
    aggregate_id: str,
    user_id: str,
    after_version: int,
    events: Sequence[Event],
    metadata: EventMetadata,
) -> list[Envelope]:
    """Append facts about one aggregate behind `after_version`, and put them into the outbox.

    Raises VersionConflict when another decision was recorded first; the transaction is then
    aborted. Raises Unavailable while own facts may be missing here (see `own_facts`).
    """
    return await append_each(
        connection,
        [
            Decided(aggregate_id, user_id, after_version + number, event)
            for number, event in enumerate(events)
        ],
        metadata,
    )


async def append_each(
    connection: AsyncConnection, decided: Sequence[Decided], metadata: EventMetadata
) -> list[Envelope]:
    """Append facts about several aggregates, in few statements. Raises as `append` does."""
    require_verified(connection)
    envelopes = [
        Envelope(
            event_id=new_id(ids.EVENT, metadata.at_ms),
            aggregate_id=one.aggregate_id,
            version=one.after_version + 1,
            user_id=one.user_id,
            occurred_at_ms=metadata.at_ms,
            actor=metadata.actor,
            request_id=metadata.request_id,
            traceparent=metadata.traceparent,
            causation_id=metadata.causation_id,
            data=data_of(one.event),
        )
        for one in decided
    ]
    if not envelopes:
        return []
    events = [one.event for one in decided]
    try:
        await insert_events(connection, envelopes, events)
    except IntegrityError as error:
        if is_unique_violation(error):
            raise VersionConflict(decided[0].aggregate_id) from error
        raise
    await connection.execute(
        sa.insert(outbox),
        [
            {
                "ordering_key": envelope.aggregate_id,
                "subject": event.published_on(envelope.user_id, envelope.aggregate_id),
                "message_id": envelope.event_id,
                "headers": _headers(event, envelope),
                "body": wire.encode(envelope),
            }
            for envelope, event in zip(envelopes, events, strict=True)
        ],
    )
    return envelopes


def _headers(event: Event, envelope: Envelope) -> dict[str, str]:
    headers = {subjects.TYPE_HEADER: event.type_name()}
    if envelope.traceparent is not None:
        headers[subjects.TRACE_HEADER] = envelope.traceparent
    return headers


async def insert_events(
    connection: AsyncConnection, envelopes: Sequence[Envelope], events: Sequence[Event]
) -> None:
    """Write facts into the event table, and nowhere else."""
    await connection.execute(
        sa.insert(events_table),
        [
            {
                "aggregate_id": envelope.aggregate_id,
                "version": envelope.version,
                "event_id": envelope.event_id,
                "type": event.type_name(),
                "user_id": envelope.user_id,
                "occurred_at_ms": envelope.occurred_at_ms,
                "envelope": wire.encode(envelope),
            }
            for envelope, event in zip(envelopes, events, strict=True)
        ],
    )


def require_verified(connection: AsyncConnection) -> None:
    """Raise Unavailable while own facts may be missing in this database (see `own_facts`)."""
    info = connection.info
    verified = info["database"].verified if "database" in info else None
    if verified is not None and verified != info["incarnation"]:
        raise Unavailable("The database is being compared with the streams; try again shortly.")


async def send(connection: AsyncConnection, subject: str, command: Command) -> None:
    """Put a command into the outbox, in the transaction of the fact that caused it."""
    await connection.execute(
        sa.insert(outbox),
        {
            "ordering_key": subject,
            "subject": subject,
            "message_id": command.command_id,
            "headers": command.headers(),
            "body": wire.encode(command),
        },
    )


def new_id(prefix: str, at_ms: int) -> str:
    """Return a fresh id of this kind."""
    return ids.new_id(prefix, at_ms, secrets.token_bytes(ids.ENTROPY_BYTES))
