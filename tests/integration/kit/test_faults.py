"""Servers die, consumers vanish, a relay is killed between publish and mark."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from webhost_contracts import subjects
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.relay import Relay

from tests.integration.kit.test_outbox_to_projection import create, projector
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.infra import Nats, Postgres

RELAY_PROCESS = """
import asyncio, sys
from webhost_kit.bus.connection import connect
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.relay import Relay

async def main():
    await Relay(sys.argv[1], await connect(sys.argv[2], "relay")).run()

asyncio.run(main())
"""


async def message_ids(harness: Harness) -> set[str]:
    """The ids of all messages that EVENTS holds."""
    state = (await harness.bus.js.stream_info(subjects.EVENTS)).state
    sequences = range(state.first_seq, state.last_seq + 1) if state.messages else ()
    stored = [await harness.bus.js.get_msg(subjects.EVENTS, sequence) for sequence in sequences]
    return {(message.headers or {})[subjects.MESSAGE_ID_HEADER] for message in stored}


async def test_a_deleted_consumer_is_made_again(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run(), projector(harness).run()):
        await create(harness, "agt_1", "one")
        await harness.until_scalar("SELECT count(*) FROM names", 1, "the first fold")
        for consumer in await harness.bus.js.consumers_info(subjects.EVENTS):
            await harness.bus.js.delete_consumer(subjects.EVENTS, consumer.name)
        await create(harness, "agt_2", "two")
        await harness.until_scalar("SELECT count(*) FROM names", 2, "the fold goes on")
        await harness.until_scalar("SELECT sum(seen) FROM names", 2, "each fact once")


async def test_a_killed_bus_loses_nothing(harness: Harness, nats_server: Nats) -> None:
    relay, names = Relay(harness.dsn, harness.bus), projector(harness)
    async with in_background(relay.run(), names.run()):
        await create(harness, "agt_1", "one")
        await harness.until_scalar("SELECT count(*) FROM names", 1, "the first fold")
        nats_server.kill()
        try:
            await create(harness, "agt_1b", "while away")

            async def complains() -> bool:
                return names.check() is not None and relay.check() is not None

            await eventually(complains, "readiness notices", seconds=15)
        finally:
            nats_server.start()
        await harness.until_scalar("SELECT count(*) FROM names", 2, "the fold goes on")
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "an empty outbox")

        async def content() -> bool:
            return names.check() is None and relay.check() is None

        await eventually(content, "readiness comes back", seconds=15)
    assert await harness.scalar("SELECT sum(seen) FROM names") == 2


@pytest.mark.accept("4")
async def test_a_relay_killed_between_publish_and_mark_publishes_again(
    harness: Harness, tmp_path: Path
) -> None:
    crash_file = tmp_path / "crash"
    crash_file.write_text("relay.published")
    for number in range(5):
        await create(harness, f"agt_{number}", "one", "two")

    async def relay_until_it_ends() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RELAY_PROCESS,
            harness.dsn,
            harness.nats_url,
            env={**os.environ, "WEBHOST_CRASH_FILE": str(crash_file)},
        )
        return await asyncio.wait_for(process.wait(), 20)

    assert await relay_until_it_ends() == -9
    assert await harness.scalar("SELECT count(*) FROM outbox") == 10
    held = await message_ids(harness)
    waiting = await harness.scalar("SELECT array_agg(message_id) FROM outbox")
    assert held, "it died before it published"
    assert held <= set(waiting)

    async with in_background(Relay(harness.dsn, harness.bus).run(), projector(harness).run()):
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "an empty outbox")
        await harness.until_scalar("SELECT sum(seen) FROM names", 10, "every fact once")
    assert await harness.scalar("SELECT count(*) FROM names WHERE name = 'two'") == 5


async def test_a_killed_database_loses_nothing(harness: Harness, postgres_server: Postgres) -> None:
    relay, names = Relay(harness.dsn, harness.bus), projector(harness)
    async with in_background(relay.run(), names.run(), harness.database.run(every_s=0.1)):
        await create(harness, "agt_1", "one")
        await harness.until_scalar("SELECT count(*) FROM names", 1, "the first fold")
        postgres_server.kill()
        try:

            async def complains() -> bool:
                return harness.database.check() is not None

            await eventually(complains, "readiness notices", seconds=15)
            with pytest.raises(Unavailable):
                await create(harness, "agt_2", "while away")
        finally:
            postgres_server.start()

        async def content() -> bool:
            return harness.database.check() is None

        await eventually(content, "readiness comes back", seconds=15)
        await create(harness, "agt_3", "two")
        await harness.until_scalar("SELECT count(*) FROM names", 2, "the fold goes on")
    assert await harness.scalar("SELECT sum(seen) FROM names") == 2
