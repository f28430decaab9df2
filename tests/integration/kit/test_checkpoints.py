"""A checkpoint moves with its rows or not at all, and never past what was not folded."""

import dataclasses

import psycopg
import pytest
from nats.js.errors import APIError
from webhost_contracts import subjects
from webhost_kit.bus import reader
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.errors import CheckpointMoved
from webhost_kit.eventsourcing import relay as relay_module
from webhost_kit.eventsourcing.checkpoints import (
    read_checkpoint,
    require_checkpoint,
    reset_checkpoint,
    save_checkpoint,
)
from webhost_kit.eventsourcing.low_water import LowWater
from webhost_kit.eventsourcing.relay import LOOK, Relay

from tests.integration.kit.test_outbox_to_projection import create, projector
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background

NOTHING_LEFT_OUT = {"above": 0, "batch": 500, "without": list[str]()}


async def relayed(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):

        async def empty() -> bool:
            return await harness.scalar("SELECT count(*) FROM outbox") == 0

        await eventually(empty, "an empty outbox", seconds=20)


async def folded(harness: Harness, expected: int) -> None:
    async def holds() -> bool:
        return await harness.scalar("SELECT count(*) FROM names") == expected

    await eventually(holds, f"{expected} names")


@pytest.mark.accept("A1")
async def test_what_was_purged_unread_halts_the_projection(harness: Harness) -> None:
    await create(harness, "agt_1", "one")
    await relayed(harness)
    async with in_background(projector(harness).run()):
        await folded(harness, 1)
    await create(harness, "agt_2", "two")
    await create(harness, "agt_3", "three")
    await relayed(harness)
    await harness.bus.js.purge_stream(subjects.EVENTS, seq=3)

    halted = projector(harness)
    async with in_background(halted.run()):

        async def halts() -> bool:
            return "purged unread" in (halted.check() or "")

        await eventually(halts, "the projection to halt")
        assert await harness.scalar("SELECT count(*) FROM names") == 1
        await halted.reset()
        await folded(harness, 2)


async def test_a_fold_from_before_a_reset_rolls_back(harness: Harness) -> None:
    """Even where the projection has come to the same place again meanwhile."""
    before = Checkpoint("a time", 5, "evt_5")
    async with harness.database.transaction() as connection:
        await save_checkpoint(connection, "names", before)
        await require_checkpoint(connection, "names", before)
        await reset_checkpoint(connection, "names")
        begun = await read_checkpoint(connection, "names")
        assert begun is not None
        again = dataclasses.replace(before, epoch=begun.epoch)
        await save_checkpoint(connection, "names", again)
        await require_checkpoint(connection, "names", again)
        with pytest.raises(CheckpointMoved):
            await require_checkpoint(connection, "names", before)


async def test_what_is_not_for_a_projection_does_not_leave_it_behind(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IDLE_ADVANCE_S", 0.2)
    await create(harness, "agt_1", "one")
    await relayed(harness)
    idle = projector(harness)
    async with in_background(idle.run()):
        await folded(harness, 1)
        config = (await harness.bus.js.stream_info(subjects.EVENTS)).config
        assert config.subjects is not None
        for number in range(5):
            await harness.bus.js.publish(f"evt.usr_1.other.{number}", b"{}")
    # Its filter is for everything; one of agents alone stays where it is until it moves on.
    from webhost_kit.eventsourcing.projector import Projector

    from tests.integration.kit.test_outbox_to_projection import TYPES, fold_names

    agents = Projector(
        "agents",
        harness.database,
        harness.bus,
        subjects.EVENTS,
        ["evt.*.agent.*"],
        TYPES,
        fold_names,
    )
    async with in_background(agents.run()):

        async def moved() -> bool:
            found = await harness.scalar("SELECT sequence FROM checkpoints WHERE name = 'agents'")
            return found == 6

        await eventually(moved, "the checkpoint to move past what is not for it")
    await harness.bus.js.purge_stream(subjects.EVENTS, seq=6)
    await create(harness, "agt_2", "two")
    await relayed(harness)
    async with in_background(agents.run()):
        await folded(harness, 2)
        assert agents.check() is None


async def test_two_projectors_that_overlap_fold_each_fact_once(harness: Harness) -> None:
    first, second = projector(harness), projector(harness)
    # Without leadership, as when one was suspended and wakes.
    async with in_background(
        first.project(), second.project(), Relay(harness.dsn, harness.bus).run()
    ):
        for number in range(20):
            await create(harness, f"agt_{number}", *[f"{n}" for n in range(10)])
        await folded(harness, 20)

        async def all_of_them() -> bool:
            return await harness.scalar("SELECT sum(seen) FROM names") >= 200

        await eventually(all_of_them, "all facts")
    assert await harness.scalar("SELECT sum(seen) FROM names") == 200


@pytest.mark.accept("A1")
async def test_a_full_usage_stream_refuses_new_facts_and_keeps_the_old(harness: Harness) -> None:
    config = (await harness.bus.js.stream_info(subjects.USAGE)).config
    await harness.bus.js.update_stream(dataclasses.replace(config, max_msgs=2))
    for number in range(2):
        await harness.bus.js.publish("usage.0.gateway", b"%d" % number)
    with pytest.raises(APIError):
        await harness.bus.js.publish("usage.0.gateway", b"2")
    assert (await harness.bus.js.get_msg(subjects.USAGE, 1)).data == b"0"


@pytest.mark.accept("A10")
async def test_a_look_at_the_outbox_costs_the_same_beside_a_dump(harness: Harness) -> None:
    def buffers(connection: psycopg.Connection, above: int) -> int:
        plan = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {LOOK}".encode(),
            NOTHING_LEFT_OUT | {"above": above},
        ).fetchone()
        assert plan is not None
        return plan[0][0]["Plan"]["Shared Hit Blocks"]

    with (
        psycopg.connect(harness.dsn) as dump,
        psycopg.connect(harness.dsn, autocommit=True) as connection,
    ):
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM outbox")
        connection.execute(
            "INSERT INTO outbox (ordering_key, subject, message_id, headers, body)"
            " SELECT n::text, 's', n::text, '{}', '' FROM generate_series(1, 40000) n"
        )
        connection.execute("DELETE FROM outbox")
        low_water = LowWater()
        low_water.above(0.0)
        for _ in range(3):
            found = connection.execute(LOOK.encode(), NOTHING_LEFT_OUT).fetchone()
            assert found is not None
            next_serial, next_xid, oldest_xid = found[-3:]
            low_water.looked(next_serial, next_xid, oldest_xid)
            connection.execute("SELECT pg_current_xact_id()")
        assert low_water.above(1.0) == 40_000
        from_the_bottom = buffers(connection, 0)
        assert from_the_bottom > 100
        assert buffers(connection, low_water.above(1.0)) < from_the_bottom / 10


@pytest.mark.accept("A10")
async def test_the_relay_looks_above_its_low_water_mark(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    class AboveAll(LowWater):
        def above(self, now_s: float) -> int:
            return 10**9

        def looked(self, seen_below: int, next_xid: int, oldest_xid: int) -> None:
            nonlocal looks
            looks += 1

    async def looked(times: int) -> None:
        async def holds() -> bool:
            return looks >= times

        await eventually(holds, f"{times} looks", seconds=20)

    monkeypatch.setattr(relay_module, "LowWater", AboveAll)
    await create(harness, "agt_1", "one")
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await looked(1)
        await create(harness, "agt_2", "wakes it")
        await looked(2)
    assert await harness.scalar("SELECT count(*) FROM outbox") == 2
