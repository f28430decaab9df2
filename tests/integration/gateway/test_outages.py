"""What stands behind the gateway goes away, and comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres, running_nats, running_postgres

BOUND_S = 6.0
"""An answer must come within this time, whatever is away."""


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def nats():
    with running_nats() as nats:
        yield nats


@pytest.fixture
async def frail(postgres: Postgres, nats: Nats, tmp_path: Path) -> AsyncIterator[Harness]:
    """A harness whose servers may be killed."""
    async with running_harness(postgres.create_database(), nats.new_account(), tmp_path) as harness:
        yield harness


async def unavailable(harness: Harness, gateway: Gateway, agent) -> bool:
    started = time.monotonic()
    status, body = await harness.invoke(gateway, agent)
    assert time.monotonic() - started < BOUND_S
    if status == 200:
        return False
    assert (status, body["error"]["code"]) == (503, "UNAVAILABLE")
    assert body["error"]["retryable"]
    return True


async def test_the_database_goes_away_under_a_call(frail: Harness, postgres: Postgres) -> None:
    harness = frail
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)
    go_on = asyncio.Event()
    arrived = asyncio.Event()

    async def held(call: Call) -> None:
        arrived.set()
        await go_on.wait()
        await echo(call)

    harness.worker.behaviour = held
    running = asyncio.create_task(harness.invoke(gateway, agent))
    await arrived.wait()
    postgres.kill()
    try:
        go_on.set()
        # The answer does not wait for the outcome.
        status, _ = await running
        assert status == 200
        assert await unavailable(harness, gateway, agent)

        async def unready() -> bool:
            return not await harness.ready(gateway)

        await eventually(unready, "the gateway to be unready")
    finally:
        postgres.start()
    await harness.until_answers(gateway, agent)
    facts = await harness.until_facts(agent, 3)
    assert [fact.outcome for fact in facts] == ["succeeded"] * 3

    async def settled() -> bool:
        rows = harness.rows("SELECT * FROM quotas WHERE user_id = %s", agent.user_id)
        return [(row["requests"], row["in_flight"]) for row in rows] == [(3, 0)]

    await eventually(settled, "3 requests, none in flight")


async def test_the_bus_goes_away(frail: Harness, nats: Nats) -> None:
    """A gateway that cannot hear of a pointer's change refuses, and states its facts later."""
    harness = frail
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)
    nats.kill()
    try:
        await harness.invoke(gateway, agent)

        async def refused() -> bool:
            return await unavailable(harness, gateway, agent)

        await eventually(refused, "the gateway to refuse")
        assert not await harness.ready(gateway)
    finally:
        nats.start()
    await harness.until_answers(gateway, agent)

    async def all_stated() -> bool:
        (row,) = harness.rows("SELECT * FROM quotas WHERE user_id = %s", agent.user_id)
        # A fact whose acknowledgement was lost is on the stream twice, about one invocation.
        stated = {envelope.aggregate_id for envelope in await harness.envelopes(agent)}
        return len(stated) == row["requests"]

    await eventually(all_stated, "a fact for every admitted call", seconds=15)
