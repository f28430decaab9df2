"""Decisions that race: each is made on the state that the one before it left."""

import asyncio
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import AgentCreated, AgentUpdated, Envelope, Event
from webhost_kit.eventsourcing.aggregates import Aggregate, Appended
from webhost_kit.eventsourcing.store import EventMetadata

from tests.support.harness import Harness

RACERS = 5
METADATA = EventMetadata(actor="test")


@dataclass(frozen=True)
class Named:
    id: str
    user_id: str = "usr_1"
    version: int = 0
    name: str = ""


async def load(connection: AsyncConnection) -> Named:
    row = (await connection.execute(text("SELECT id, seen, name FROM names"))).one_or_none()
    return Named("agt_1") if row is None else Named(row.id, "usr_1", row.seen, row.name)


def evolve(state: Named, _envelope: Envelope, event: Event) -> Named:
    assert isinstance(event, AgentCreated | AgentUpdated)
    return replace(state, version=state.version + 1, name=event.name)


async def save(connection: AsyncConnection, _before: Named, after: Named) -> None:
    await connection.execute(
        text(
            "INSERT INTO names (id, seen, name) VALUES (:id, :version, :name)"
            " ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, name = excluded.name"
        ),
        {"id": after.id, "version": after.version, "name": after.name},
    )


def lengthen(state: Named) -> list[Event]:
    return [AgentUpdated(name=state.name + "x") if state.version else AgentCreated(name="x")]


async def test_each_racing_decision_sees_the_one_before(harness: Harness) -> None:
    aggregate = Aggregate(evolve, save)

    async def work(connection: AsyncConnection) -> Appended[Named]:
        name = await load(connection)
        return await aggregate.append(connection, name, lengthen(name), METADATA)

    async def racer() -> Appended[Named]:
        return await harness.database.retry_conflicts(work, tries=RACERS)

    appended = await asyncio.gather(*(racer() for _ in range(RACERS)))
    assert sorted(it.state.version for it in appended) == list(range(1, RACERS + 1))
    for it in appended:
        [(_, envelope)] = it.facts
        assert (envelope.version, len(it.state.name)) == (it.state.version, it.state.version)
    assert await harness.scalar("SELECT name FROM names") == "x" * RACERS
    assert await harness.scalar("SELECT count(*) FROM events") == RACERS


async def test_no_facts_change_nothing(harness: Harness) -> None:
    aggregate = Aggregate(evolve, save)
    async with harness.database.transaction() as connection:
        appended = await aggregate.append(connection, Named("agt_1"), [], METADATA)
    assert (appended.state, appended.facts) == (Named("agt_1"), ())
    assert await harness.scalar("SELECT count(*) FROM names") == 0
