"""Servers die, consumers vanish, a relay is killed between publish and mark."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from webhost_contracts import subjects
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.relay import Relay

from tests.integration.kit.conftest import House, in_background
from tests.integration.kit.test_outbox_to_projection import create, projector
from tests.support.deadline import eventually
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


async def message_ids(house: House) -> set[str]:
    """The ids of all messages that EVENTS holds."""
    state = (await house.bus.js.stream_info(subjects.EVENTS)).state
    sequences = range(state.first_seq, state.last_seq + 1) if state.messages else ()
    stored = [await house.bus.js.get_msg(subjects.EVENTS, sequence) for sequence in sequences]
    return {(message.headers or {})[subjects.MESSAGE_ID_HEADER] for message in stored}


async def wait_for(house: House, query: str, expected: object, what: str) -> None:
    async def holds() -> bool:
        return await house.scalar(query) == expected

    await eventually(holds, what, seconds=20)


async def test_a_deleted_consumer_is_made_again(house: House) -> None:
    async with in_background(Relay(house.dsn, house.bus).run(), projector(house).run()):
        await create(house, "agt_1", "one")
        await wait_for(house, "SELECT count(*) FROM names", 1, "the first fold")
        for consumer in await house.bus.js.consumers_info(subjects.EVENTS):
            await house.bus.js.delete_consumer(subjects.EVENTS, consumer.name)
        await create(house, "agt_2", "two")
        await wait_for(house, "SELECT count(*) FROM names", 2, "the fold goes on")
        await wait_for(house, "SELECT sum(seen) FROM names", 2, "each fact once")


async def test_a_killed_bus_loses_nothing(house: House, nats_server: Nats) -> None:
    relay, names = Relay(house.dsn, house.bus), projector(house)
    async with in_background(relay.run(), names.run()):
        await create(house, "agt_1", "one")
        await wait_for(house, "SELECT count(*) FROM names", 1, "the first fold")
        nats_server.kill()
        try:
            await create(house, "agt_1b", "while away")

            async def complains() -> bool:
                return names.check() is not None and relay.check() is not None

            await eventually(complains, "readiness notices", seconds=15)
        finally:
            nats_server.start()
        await wait_for(house, "SELECT count(*) FROM names", 2, "the fold goes on")
        await wait_for(house, "SELECT count(*) FROM outbox", 0, "an empty outbox")

        async def content() -> bool:
            return names.check() is None and relay.check() is None

        await eventually(content, "readiness comes back", seconds=15)
    assert await house.scalar("SELECT sum(seen) FROM names") == 2


@pytest.mark.accept("4")
async def test_a_relay_killed_between_publish_and_mark_publishes_again(
    house: House, tmp_path: Path
) -> None:
    crash_file = tmp_path / "crash"
    crash_file.write_text("relay.published")
    for number in range(5):
        await create(house, f"agt_{number}", "one", "two")

    async def relay_until_it_ends() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RELAY_PROCESS,
            house.dsn,
            house.nats_url,
            env={**os.environ, "WEBHOST_CRASH_FILE": str(crash_file)},
        )
        return await asyncio.wait_for(process.wait(), 20)

    assert await relay_until_it_ends() == -9
    assert await house.scalar("SELECT count(*) FROM outbox") == 10
    held = await message_ids(house)
    waiting = await house.scalar("SELECT array_agg(message_id) FROM outbox")
    assert held, "it died before it published"
    assert held <= set(waiting)

    async with in_background(Relay(house.dsn, house.bus).run(), projector(house).run()):
        await wait_for(house, "SELECT count(*) FROM outbox", 0, "an empty outbox")
        await wait_for(house, "SELECT sum(seen) FROM names", 10, "every fact once")
    assert await house.scalar("SELECT count(*) FROM names WHERE name = 'two'") == 5


async def test_a_killed_database_loses_nothing(house: House, postgres_server: Postgres) -> None:
    relay, names = Relay(house.dsn, house.bus), projector(house)
    async with in_background(relay.run(), names.run(), house.database.run(every_s=0.1)):
        await create(house, "agt_1", "one")
        await wait_for(house, "SELECT count(*) FROM names", 1, "the first fold")
        postgres_server.kill()
        try:

            async def complains() -> bool:
                return house.database.check() is not None

            await eventually(complains, "readiness notices", seconds=15)
            with pytest.raises(Unavailable):
                await create(house, "agt_2", "while away")
        finally:
            postgres_server.start()

        async def content() -> bool:
            return house.database.check() is None

        await eventually(content, "readiness comes back", seconds=15)
        await create(house, "agt_3", "two")
        await wait_for(house, "SELECT count(*) FROM names", 2, "the fold goes on")
    assert await house.scalar("SELECT sum(seen) FROM names") == 2
