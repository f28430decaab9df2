"""A leader that hangs, or loses only some of its connections, is replaced within ten seconds."""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from webhost_kit.bus.connection import connect
from webhost_kit.database.leadership import Leadership
from webhost_kit.eventsourcing.relay import Relay
from webhost_local.child import tied_to_parent

from tests.integration.kit.test_outbox_to_projection import create, projector
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.proxy import Proxy

SUCCEEDED_S = 10.0

LEADER = """
import asyncio, os, sys
import psycopg
from webhost_kit.database.leadership import Leadership

async def work():
    async with await psycopg.AsyncConnection.connect(sys.argv[1], autocommit=True) as connection:
        while True:
            await connection.execute("INSERT INTO terms VALUES (%s, clock_timestamp())",
                (os.getpid(),))
            await asyncio.sleep(0.05)

asyncio.run(Leadership(sys.argv[1], "test").run(work))
"""


@asynccontextmanager
async def leader(dsn: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEADER, dsn, preexec_fn=tied_to_parent()
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


def newest(dsn: str) -> int | None:
    """The process that led last."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pid FROM terms ORDER BY at DESC LIMIT 1").fetchone()
        return row[0] if row else None


async def leads(dsn: str, process: asyncio.subprocess.Process, within_s: float) -> None:
    async def holds() -> bool:
        return await asyncio.to_thread(newest, dsn) == process.pid

    await eventually(holds, f"process {process.pid} to lead", seconds=within_s)


@pytest.mark.accept("A3")
async def test_a_suspended_leader_is_replaced_and_steps_back(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE terms (pid int, at timestamptz)")
    async with leader(database_url) as first:
        await leads(database_url, first, 20)
        async with leader(database_url) as second:
            os.kill(first.pid, signal.SIGSTOP)
            await leads(database_url, second, SUCCEEDED_S)
            os.kill(first.pid, signal.SIGCONT)
            woken = time.monotonic()

            async def only_the_second() -> bool:
                def recent() -> set[int]:
                    with psycopg.connect(database_url) as connection:
                        rows = connection.execute(
                            "SELECT DISTINCT pid FROM terms"
                            " WHERE at > clock_timestamp() - interval '0.5 s'"
                        )
                        return {row[0] for row in rows}

                return time.monotonic() - woken > 1 and await asyncio.to_thread(recent) == {
                    second.pid
                }

            await eventually(only_the_second, "the first to step back")


@pytest.mark.accept("A3")
async def test_a_leader_whose_work_complains_lets_go(database_url: str) -> None:
    led: list[str] = []
    problem: list[str | None] = ["stuck"]

    def work(name: str):
        async def lead() -> None:
            led.append(name)
            await asyncio.Event().wait()

        return lead

    stuck = Leadership(database_url, "test", check=lambda: problem[0])
    well = Leadership(database_url, "test", check=lambda: None)
    async with in_background(stuck.run(work("stuck"))):

        async def first() -> bool:
            return led == ["stuck"]

        await eventually(first, "the first leader")
        async with in_background(well.run(work("well"))):

            async def second() -> bool:
                return led[-1] == "well"

            await eventually(second, "the second leader", seconds=SUCCEEDED_S)


@pytest.mark.accept("A3")
async def test_a_relay_and_a_projector_cut_off_from_the_bus_alone_are_replaced(
    harness: Harness,
) -> None:
    host = harness.nats_url.rpartition("@")[2]
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        url = harness.nats_url.replace(host, f"127.0.0.1:{proxy.port}")
        half = await connect(url, "half")
        behind = dataclasses.replace(harness, nats_url=url, bus=half)
        relay, names = Relay(harness.dsn, half), projector(behind)
        async with in_background(relay.run(), names.run()):
            await create(harness, "agt_1", "one")

            async def folded() -> bool:
                return await harness.scalar("SELECT count(*) FROM names") == 1

            await eventually(folded, "the first fold")
            async with in_background(
                Relay(harness.dsn, harness.bus).run(), projector(harness).run()
            ):
                proxy.hold()
                await create(harness, "agt_2", "two")

                async def succeeded() -> bool:
                    return await harness.scalar("SELECT count(*) FROM names") == 2

                await eventually(succeeded, "others to take over", seconds=SUCCEEDED_S)
                proxy.release()
        await half.close()
