"""The deployments and tiers: folded into rows of our own, and followed in memory.

Consumes: `deployment.started|telemetry_key_revoked|failed|torn_down` and `account.tier_changed` of
EVENTS.
Guarantees: the memory starts from rows and checkpoint of one snapshot, and never goes back on a
stream that goes on. On another stream it starts again from there.
On replay: versions that were seen are skipped.
"""

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.upsert import upsert
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.periodic import every

from webhost_telemetry_ingest.model import (
    KEPT_MS,
    SUBJECTS,
    TYPES,
    Account,
    Deployment,
    Deployments,
)
from webhost_telemetry_ingest.tables import accounts, deployments

NAME = "telemetry-ingest.deployments"
FORGET_EVERY_S = 3600.0


def projector(database: Database, bus: Bus) -> Projector:
    """Return what keeps the rows."""
    return Projector(NAME, database, bus, subjects.EVENTS, SUBJECTS, TYPES, fold, reset=reset)


async def reset(connection: AsyncConnection) -> None:
    """Remove the rows: all of them are made from the stream."""
    for table in (deployments, accounts):
        await connection.execute(sa.delete(table))


def memory(bus: Bus, database: Database, known: Deployments) -> InMemoryProjection:
    """Return what keeps the memory."""

    def fold_one(fact: Fact) -> None:
        known.evolve(fact.envelope, fact.event)

    async def load_all(connection: AsyncConnection, anew: bool) -> None:
        rows = Deployments()
        await load(connection, rows)
        if anew:
            known.clear()
        known.merge(rows)
        known.forget(now_ms())  # whose rows are about to be removed

    return InMemoryProjection(
        NAME,
        database,
        bus,
        subjects.EVENTS,
        SUBJECTS,
        TYPES,
        fold_one,
        load_all,
    )


async def load(
    connection: AsyncConnection, known: Deployments, only: Sequence[Fact] | None = None
) -> None:
    """Take over what the rows hold that is newer: all of them, or those of the facts."""
    of_deployments, of_accounts = sa.select(deployments), sa.select(accounts)
    if only is not None:
        ids = sorted({fact.envelope.aggregate_id for fact in only})
        users = sorted({fact.envelope.user_id for fact in only})
        of_deployments = of_deployments.where(deployments.c.deployment_id.in_(ids))
        of_accounts = of_accounts.where(accounts.c.user_id.in_(users))
    async for row in await connection.stream(of_deployments):
        known.add(row.deployment_id, Deployment(*row[1:]))
    async for row in await connection.stream(of_accounts):
        known.add_account(row.user_id, Account(*row[1:]))


async def fold(connection: AsyncConnection, facts: Sequence[Fact], _: Checkpoint) -> None:
    """Write what these facts mean."""
    touched = Deployments()
    await load(connection, touched, facts)
    for fact in facts:
        touched.evolve(fact.envelope, fact.event)
    await upsert(
        connection,
        deployments,
        ({"deployment_id": name} | asdict(one) for name, one in touched.by_id.items()),
    )
    await upsert(
        connection,
        accounts,
        ({"user_id": name} | asdict(one) for name, one in touched.accounts.items()),
    )


class Retention:
    """Forgets, and removes the rows of, deployments that ended long ago."""

    def __init__(self, database: Database, known: Deployments) -> None:
        self._database = database
        self._known = known

    async def run(self) -> None:
        """Forget and remove until cancelled."""
        await every(FORGET_EVERY_S, lambda: self.once(now_ms()), "retention")

    async def once(self, at_ms: int) -> None:
        """Forget and remove as of this time."""
        self._known.forget(at_ms)
        async with self._database.transaction() as connection:
            ended = deployments.c.ended_at_ms
            await connection.execute(sa.delete(deployments).where(ended < at_ms - KEPT_MS))
