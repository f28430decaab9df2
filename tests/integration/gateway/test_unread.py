"""Answers that their callers do not read: what they hold, whom they hold up, what is recorded."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest

from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually
from tests.support.slow import SlowClient, resident_mb, slow_clients

PART = "x" * 60_000
PARTS = 69
"""Together just below the 4 MiB of an answer."""
AT_ONCE = 2
"""Large answers of unknown length that a user's share of the default budget has room for."""


async def large_if_asked(call: Call) -> None:
    """Answer with almost 4 MiB of unknown length where the prompt is `large`."""
    if "large" not in call.text:
        await echo(call)
    elif call.headers["accept"] == "text/event-stream":
        await call.meta()
        for _ in range(PARTS):
            await call.event("delta", {"text": PART})
        await call.event("done", {})
        await call.write("", more=False)
    else:
        await call.start()
        await call.write('{"protocol":"invoke/v1","traceId":"t","sessionId":"s","output":{"text":"')
        for _ in range(PARTS):
            await call.write(PART)
        await call.write('"},"usage":{}}', more=False)


def request(agent: Agent, prompt: str = "large", *, stream: bool = False) -> bytes:
    body = msgspec.json.encode({"input": {"prompt": prompt}})
    path = f"/v1/invoke/{agent.agent_id}" + ("/stream" if stream else "")
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {agent.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def unread(
    gateway: Gateway, requests: Iterable[bytes]
) -> AbstractAsyncContextManager[list[SlowClient]]:
    return slow_clients(int(gateway.url.rpartition(":")[2]), requests)


async def an_agent(harness: Harness, gateway: Gateway, tier: str | None = None) -> Agent:
    agent = await harness.agent(tier)
    await harness.until_answers(gateway, agent)
    return agent


async def until_open(harness: Harness, agent: Agent, number: int, seconds: float = 20) -> None:
    """Return when this many places of the user's concurrency are taken."""
    query = "SELECT coalesce(sum(in_flight), 0)::int FROM quotas WHERE user_id = :user_id"

    async def holds() -> bool:
        return await harness.scalar(query, user_id=agent.user_id) == number

    await eventually(holds, f"{number} calls to be open", seconds=seconds)


@pytest.fixture
def worker(harness: Harness) -> None:
    harness.worker.behaviour = large_if_asked


@pytest.mark.accept("6.B3")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_unread_answers_take_a_bounded_memory(own_harness: Harness, stream: bool) -> None:
    """A hundred of them, of 4 MiB each, while another user's are answered."""
    harness, calls = own_harness, 100
    harness.worker.behaviour = large_if_asked
    gateway = await harness.start()
    agent, other = await an_agent(harness, gateway), await an_agent(harness, gateway)
    assert gateway.process is not None
    before = resident_mb(gateway.process.pid)
    async with unread(gateway, [request(agent, stream=stream)] * calls):
        await until_open(harness, agent, calls)
        for _ in range(3):
            status, body = await harness.invoke(gateway, other, {"input": {"prompt": "large"}})
            assert (status, len(body["output"]["text"])) == (200, PARTS * len(PART))
        assert resident_mb(gateway.process.pid) - before < 80
    await until_open(harness, agent, 0)


@pytest.mark.accept("6.B3")
async def test_one_users_unread_answers_hold_up_that_user_alone(own_harness: Harness) -> None:
    harness = own_harness
    harness.worker.behaviour = large_if_asked
    gateway = await harness.start()
    agent, other = await an_agent(harness, gateway), await an_agent(harness, gateway)
    async with unread(gateway, [request(agent)] * AT_ONCE) as (first, *_):
        await until_open(harness, agent, AT_ONCE)
        large = {"input": {"prompt": "large"}}
        waits = asyncio.create_task(harness.invoke(gateway, agent, large))
        await until_open(harness, agent, AT_ONCE + 1)
        status, _ = await harness.invoke(gateway, other, large)
        assert status == 200
        # A small answer of the same user passes.
        status, _ = await harness.invoke(gateway, agent)
        assert status == 200
        assert not waits.done()
        assert len(await first.rest()) > PARTS * len(PART)
        status, _ = await asyncio.wait_for(waits, 10)
        assert status == 200


@pytest.mark.accept("6.B3")
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_place_is_kept_until_the_answer_was_taken(
    harness: Harness, gateway: Gateway, stream: bool
) -> None:
    """And the caller's slowness is not the agent's time."""
    agent = await an_agent(harness, gateway, "narrow")
    before = len(await harness.until_facts(agent, 1))
    async with unread(gateway, [request(agent, stream=stream)]) as (client,):
        began = time.monotonic()
        await until_open(harness, agent, 1)
        await asyncio.sleep(1.5)
        assert len(await harness.facts(agent)) == before
        answer = await client.rest()
        took_ms = (time.monotonic() - began) * 1000
        assert answer.startswith(b"HTTP/1.1 200")
        assert len(answer) > PARTS * len(PART)
        await until_open(harness, agent, 0)
    fact = (await harness.until_facts(agent, before + 1))[-1]
    assert (fact.outcome, fact.errors) == ("succeeded", 0)
    assert fact.wall_ms is not None
    assert fact.wall_ms < took_ms - 1000


@pytest.mark.usefixtures("worker")
async def test_a_stream_ended_for_its_callers_slowness_is_no_error_of_the_agents(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await an_agent(harness, gateway)
    before = len(await harness.until_facts(agent, 1))
    async with unread(gateway, [request(agent, stream=True)]) as (client,):
        # As long as a call may last at this gateway, and longer.
        await asyncio.sleep(4)
        answer = await client.rest()
    assert b'"failure":"timeout"' in answer
    fact = (await harness.until_facts(agent, before + 1))[-1]
    assert (fact.outcome, fact.errors) == ("succeeded", 0)
    assert fact.wall_ms is not None
    assert fact.wall_ms < 2500


async def test_an_unread_call_is_recorded_when_its_gateway_dies(own_harness: Harness) -> None:
    harness = own_harness
    harness.worker.behaviour = large_if_asked
    first = await harness.start(LEASE_TTL_S="1")
    agent = await an_agent(harness, first)
    before = len(await harness.until_facts(agent, 1))
    async with unread(first, [request(agent)] * 2):
        await until_open(harness, agent, 2)
        await harness.start(LEASE_TTL_S="1")
        await first.kill()
    facts = await harness.until_facts(agent, before + 2)
    assert [(f.outcome, f.wall_ms) for f in facts[before:]] == [("unknown", None)] * 2
    await until_open(harness, agent, 0)


@pytest.mark.accept("6.B3")
@pytest.mark.long
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_caller_that_never_reads_is_given_up(own_harness: Harness, stream: bool) -> None:
    harness = own_harness
    harness.worker.behaviour = large_if_asked
    gateway = await harness.start()
    agent = await an_agent(harness, gateway)
    async with unread(gateway, [request(agent, stream=stream)] * 2):
        await until_open(harness, agent, 2)
        began = time.monotonic()
        await until_open(harness, agent, 0, seconds=50)
        assert 20 < time.monotonic() - began < 45
