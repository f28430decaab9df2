"""The deployments: folded into rows of our own, and followed in memory.

Consumes: `deployment.started` of EVENTS.
Guarantees: the memory starts from rows and checkpoint of one snapshot and never goes back.
On replay: versions that were seen are skipped.
"""

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.projector import Projector

from webhost_telemetry_ingest.model import SUBJECTS, TYPES, Deployment, Deployments
from webhost_telemetry_ingest.tables import deployments

NAME = "telemetry-ingest.deployments"


def projector(database: Database, bus: Bus) -> Projector:
    """Return what keeps the rows."""
    return Projector(NAME, database, bus, subjects.EVENTS, SUBJECTS, TYPES, fold, reset=reset)


async def reset(connection: AsyncConnection) -> None:
    """Remove the rows: all of them are made from the stream."""
    await connection.execute(sa.delete(deployments))


def memory(bus: Bus, database: Database, known: Deployments) -> InMemoryProjection:
    """Return what keeps the memory."""

    def fold_one(fact: Fact) -> None:
        known.evolve(fact.envelope, fact.event)

    async def load(connection: AsyncConnection) -> None:
        async for row in await connection.stream(sa.select(deployments)):
            known.add(row.deployment_id, Deployment(*row[1:]))

    return InMemoryProjection(NAME, database, bus, subjects.EVENTS, SUBJECTS, TYPES, fold_one, load)


async def fold(connection: AsyncConnection, facts: Sequence[Fact], _: Checkpoint) -> None:
    """Write what these facts mean."""
    news = Deployments()
    for fact in facts:
        news.evolve(fact.envelope, fact.event)
    statement = insert(deployments)
    changes = {c.name: statement.excluded[c.name] for c in deployments.c if not c.primary_key}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[deployments.c.deployment_id],
            set_=changes,
            where=deployments.c.version < statement.excluded.version,
        ),
        [{"deployment_id": key} | asdict(row) for key, row in sorted(news.by_id.items())],
    )
