"""Requests whose bodies do not come: what they hold, and whom they hold up."""

import pytest

from tests.integration.gateway.harness import Gateway, Harness
from tests.support.slow import first_answer, resident_mb, slow_clients

CLIENTS = 200
BODY_BYTES = 1024 * 1024
LARGE = {"input": {"prompt": "y" * (BODY_BYTES // 2)}}


@pytest.mark.accept("6.B5")
async def test_half_sent_bodies_take_a_bounded_memory(own_harness: Harness) -> None:
    """Of one user's, a few are read; the others wait unread, or are refused."""
    harness = own_harness
    gateway = await harness.start()
    agent, other = await harness.agent(), await harness.agent()
    await harness.until_answers(gateway, agent)
    await harness.until_answers(gateway, other)
    assert gateway.process is not None
    before = resident_mb(gateway.process.pid)
    head = (
        f"POST /v1/invoke/{agent.agent_id} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {agent.token}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    )
    half = head.encode() + b"x" * (BODY_BYTES - 1)
    port = int(gateway.url.rpartition(":")[2])
    async with slow_clients(port, [half] * CLIENTS) as clients:
        status, _ = await harness.invoke(gateway, other, LARGE)
        assert status == 200
        status, _ = await harness.invoke(gateway, agent)
        assert status == 200
        clients[-1].writer.transport.resume_reading()
        assert (await clients[-1].reader.readline()).startswith(b"HTTP/1.1 503")
        assert resident_mb(gateway.process.pid) - before < 60


@pytest.mark.accept("6.B5")
@pytest.mark.parametrize("size", [f"Content-Length: {BODY_BYTES}", "Transfer-Encoding: chunked"])
async def test_whoever_has_many_half_sent_bodies_is_refused_more_and_nobody_else(
    harness: Harness, gateway: Gateway, size: str
) -> None:
    """A body of unheard-of size counts as the largest."""
    agent, other = await harness.agent(), await harness.agent()
    await harness.until_answers(gateway, agent)
    await harness.until_answers(gateway, other)
    head = (
        f"POST /v1/invoke/{agent.agent_id} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {agent.token}\r\n{size}\r\n\r\n"
    )
    port = int(gateway.url.rpartition(":")[2])
    async with slow_clients(port, [head.encode() + b"1"] * CLIENTS) as clients:
        assert (await first_answer(clients)).startswith(b"HTTP/1.1 503")
        status, _ = await harness.invoke(gateway, other, LARGE)
        assert status == 200
