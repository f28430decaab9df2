"""A fact's way: appended with its outbox entry, relayed to the stream, folded once."""

import time
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import AgentCreated, AgentUpdated
from webhost_contracts.events.base import by_name
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.errors import VersionConflict
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.relay import IDLE_S, Relay
from webhost_kit.eventsourcing.store import EventMetadata, append

from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background

TYPES = by_name(AgentCreated, AgentUpdated)
WHO = EventMetadata(actor="test")


async def fold_names(
    connection: AsyncConnection, facts: Sequence[Fact], checkpoint: Checkpoint
) -> None:
    for fact in facts:
        assert isinstance(fact.event, AgentCreated | AgentUpdated)
        await connection.execute(
            text(
                "INSERT INTO names VALUES (:id, :name, 1)"
                " ON CONFLICT (id) DO UPDATE SET name = :name, seen = names.seen + 1"
            ),
            {"id": fact.envelope.aggregate_id, "name": fact.event.name},
        )


def projector(harness: Harness) -> Projector:
    return Projector(
        "names", harness.database, harness.bus, subjects.EVENTS, ["evt.>"], TYPES, fold_names
    )


async def create(harness: Harness, agent: str, *names: str) -> None:
    async with harness.database.transaction() as connection:
        await append(connection, agent, "usr_1", 0, [AgentCreated(name=n) for n in names], WHO)


async def test_a_fact_reaches_the_projection(harness: Harness) -> None:
    relay, names = Relay(harness.dsn, harness.bus), projector(harness)
    async with in_background(relay.run(), names.run()):
        await create(harness, "agt_1", "first", "second")

        async def arrived() -> bool:
            return await harness.scalar("SELECT name FROM names") == "second"

        await eventually(arrived, "the fact in the projection")
        assert await harness.scalar("SELECT seen FROM names") == 2
        assert await harness.scalar("SELECT count(*) FROM outbox") == 0
        assert names.check() is None
        assert relay.check() is None


async def test_a_commit_wakes_the_relay(harness: Harness) -> None:
    relay = Relay(harness.dsn, harness.bus)
    async with in_background(relay.run()):
        started = time.monotonic()
        for number in range(4):
            await create(harness, f"agt_{number}", "awake")
            await harness.until_scalar("SELECT count(*) FROM outbox", 0, "an empty outbox")
        assert time.monotonic() - started < IDLE_S


async def test_many_facts_fold_in_order_across_restarts(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        for number in range(30):
            await create(harness, f"agt_{number}", *[f"{n}" for n in range(40)])

        async def relayed() -> bool:
            return await harness.scalar("SELECT count(*) FROM outbox") == 0

        await eventually(relayed, "an empty outbox")

    async def folded_some() -> bool:
        return (await harness.scalar("SELECT coalesce(sum(seen), 0) FROM names")) > 0

    async with in_background(projector(harness).run()):
        await eventually(folded_some, "a first batch")

    async def folded_all() -> bool:
        return (await harness.scalar("SELECT sum(seen) FROM names")) == 1200

    async with in_background(projector(harness).run()):
        await eventually(folded_all, "every fact, once")
    assert await harness.scalar("SELECT count(*) FROM names WHERE name = '39'") == 30


async def test_the_second_of_two_decisions_loses(harness: Harness) -> None:
    await create(harness, "agt_1", "first")
    with pytest.raises(VersionConflict):
        await create(harness, "agt_1", "also first")
    assert await harness.scalar("SELECT count(*) FROM events") == 1
    assert await harness.scalar("SELECT count(*) FROM outbox") == 1


async def test_a_second_projector_waits_for_the_first(harness: Harness) -> None:
    first, second = projector(harness), projector(harness)
    async with in_background(Relay(harness.dsn, harness.bus).run(), second.run()):
        async with in_background(first.run()):
            await create(harness, "agt_1", "one")

            async def folded() -> bool:
                return await harness.scalar("SELECT count(*) FROM names") == 1

            await eventually(folded, "the fold")
        await create(harness, "agt_2", "two")

        async def took_over() -> bool:
            return await harness.scalar("SELECT count(*) FROM names WHERE seen = 1") == 2

        await eventually(took_over, "exactly one fold by whoever holds the lock")


async def test_a_recreated_stream_halts_the_projector(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await create(harness, "agt_1", "one")

        async def relayed() -> bool:
            return await harness.scalar("SELECT count(*) FROM outbox") == 0

        await eventually(relayed, "an empty outbox")

    async def folded() -> bool:
        return await harness.scalar("SELECT sequence FROM checkpoints") == 1

    async with in_background(projector(harness).run()):
        await eventually(folded, "the first fold")
    info = await harness.bus.js.stream_info(subjects.EVENTS)
    await harness.bus.js.delete_stream(subjects.EVENTS)
    await harness.bus.js.add_stream(info.config)

    again = projector(harness)
    async with in_background(again.run()):

        async def halted() -> bool:
            return "halted" in (again.check() or "")

        await eventually(halted, "the projector to halt")
        await again.reset()
        await create(harness, "agt_2", "two")
        async with in_background(Relay(harness.dsn, harness.bus).run()):

            async def goes_on() -> bool:
                return await harness.scalar("SELECT count(*) FROM names") == 2

            await eventually(goes_on, "a reset projector to fold the new stream")
            assert again.check() is None
