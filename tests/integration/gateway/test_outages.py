"""What stands behind the gateway goes away, and comes back."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope, InvocationFinished
from webhost_contracts.usage_rpc import UsageReply, UsageRequest
from webhost_kit.bus import rpc
from webhost_kit.errors import Unavailable

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres, running_nats, running_postgres

BOUND_S = 6.0
"""An answer must come within this time, whatever is away."""

LEASE_S = 4.0


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


def outcome_of(fact: Envelope) -> str:
    return wire.decode(bytes(fact.data), InvocationFinished).outcome


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
            return not await gateway.ready()

        await eventually(unready, "the gateway to be unready")
    finally:
        postgres.start()
    await harness.until_answers(gateway, agent)

    async def stated() -> bool:
        # What was published when the database died is not known to be, and is sent again.
        outcomes = {each.event_id: outcome_of(each) for each in await harness.envelopes(agent)}
        return [*outcomes.values()] == ["succeeded"] * 3

    await eventually(stated, "3 facts, each once or sent again as it was", seconds=15)

    async def settled() -> bool:
        rows = await harness.rows("SELECT * FROM quotas WHERE user_id = :user", user=agent.user_id)
        return [(row["requests"], row["in_flight"]) for row in rows] == [(3, 0)]

    await eventually(settled, "3 requests, none in flight")


@dataclass
class Held:
    """A call that stays open until it is released."""

    call: asyncio.Task[tuple[int, Any]]
    let_go: asyncio.Event


async def a_held_call(harness: Harness, gateway: Gateway, agent: Agent) -> Held:
    """Begin a call; return when it is with the Worker."""
    let_go, arrived = asyncio.Event(), asyncio.Event()

    async def held(call: Call) -> None:
        arrived.set()
        await let_go.wait()
        await echo(call)

    harness.worker.behaviour = held
    call = asyncio.create_task(harness.invoke(gateway, agent))
    async with asyncio.timeout(10):
        await arrived.wait()
    harness.worker.behaviour = echo
    return Held(call, let_go)


async def all_succeed(harness: Harness, *held: tuple[Agent, Held]) -> None:
    """Let the calls go; each is answered, and stated as what it is."""
    for agent, one in held:
        one.let_go.set()
        assert (await one.call)[0] == 200
        facts = await harness.until_facts(agent, 2)
        assert [fact.outcome for fact in facts] == ["succeeded", "succeeded"]


@pytest.mark.accept("A4")
@pytest.mark.long
async def test_an_outage_longer_than_the_lease_reaps_nobody(
    frail: Harness, postgres: Postgres
) -> None:
    harness = frail
    gateways = [await harness.start(LEASE_TTL_S=str(LEASE_S)) for _ in range(2)]
    held: list[tuple[Agent, Held]] = []
    for gateway in gateways:
        agent = await harness.agent("narrow")
        await harness.until_answers(gateway, agent)
        await harness.until_facts(agent, 1)
        held.append((agent, await a_held_call(harness, gateway, agent)))
    names = {row["gateway_id"] for row in await harness.rows("SELECT gateway_id FROM leases")}
    postgres.kill()
    try:
        await asyncio.sleep(2 * LEASE_S)
    finally:
        postgres.start()
    for gateway, (agent, _) in zip(gateways, held, strict=True):
        other = await harness.agent("narrow")
        await harness.until_answers(gateway, other)
        assert [fact.outcome for fact in await harness.facts(agent)] == ["succeeded"]
    leases = await harness.rows("SELECT gateway_id, dead FROM leases")
    assert {(row["gateway_id"], row["dead"]) for row in leases} == {(n, False) for n in names}
    await all_succeed(harness, *held)


@pytest.mark.accept("A4")
@pytest.mark.long
async def test_a_gateway_that_stood_still_reaps_nobody_at_once(frail: Harness) -> None:
    """Two stand still for longer than a lease; the first to go on leaves the other its time."""
    harness = frail
    first, second = [await harness.start(LEASE_TTL_S=str(LEASE_S)) for _ in range(2)]
    agent = await harness.agent("narrow")
    await harness.until_answers(second, agent)
    await harness.until_answers(first, await harness.agent("narrow"))
    await harness.until_facts(agent, 1)
    held = await a_held_call(harness, second, agent)
    for gateway in (first, second):
        gateway.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(2 * LEASE_S)
        first.send_signal(signal.SIGCONT)
        await asyncio.sleep(LEASE_S / 3)
    finally:
        for gateway in (first, second):
            gateway.send_signal(signal.SIGCONT)
    await harness.until_answers(first, await harness.agent("narrow"))
    await all_succeed(harness, (agent, held))


async def test_the_bus_goes_away(frail: Harness, nats: Nats, postgres: Postgres) -> None:
    """A gateway that cannot hear of a pointer's change refuses, and states its facts later."""
    async with frail.process("webhost_billing", DATABASE_URL=postgres.create_database()):
        await the_bus_goes_away(frail, nats)


async def the_bus_goes_away(harness: Harness, nats: Nats) -> None:
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)
    nats.kill()
    try:
        await harness.invoke(gateway, agent)

        async def refused() -> bool:
            return await unavailable(harness, gateway, agent)

        await eventually(refused, "the gateway to refuse")
        assert not await gateway.ready()
    finally:
        nats.start()
    await harness.until_answers(gateway, agent)

    (row,) = await harness.rows("SELECT * FROM quotas WHERE user_id = :user", user=agent.user_id)
    admitted, period = row["requests"], row["period_key"]

    async def all_stated() -> bool:
        # A fact whose acknowledgement was lost is on the stream twice, about one invocation.
        stated = {envelope.aggregate_id for envelope in await harness.envelopes(agent)}
        return len(stated) == admitted

    async def all_charged() -> bool:
        request = UsageRequest(user_id=agent.user_id, period_key=period)
        try:
            reply = await rpc.call(harness.bus, subjects.RPC_USAGE, request, UsageReply)
        except Unavailable:
            return False
        return reply.usage.requests == admitted

    await eventually(all_stated, "a fact for exactly the admitted calls", seconds=15)
    await eventually(all_charged, "billing to count exactly those calls", seconds=15)
