"""One account's slow connections do nothing to another account's calls and deploys."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.caller import Caller
from tests.support.slow import resident_mb, slow_clients
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.long, pytest.mark.quiet, pytest.mark.timeout(300)]

CALLS = 150
DEPLOYS = 5
MOST_MB = 200
OURS = ("edge", "api", "gateway", "deployer", "telemetry-ingest", "billing")
ENDED_S = 120
LARGE = """
export default { async invoke(request) {
  return "x".repeat(request.input.messages[0].content === "large" ? 4_000_000 : 1);
} };
"""


def latency_ms(caller: Caller, agent_id: str) -> float:
    """The median of some calls, one after the other."""
    took: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        assert caller.post_invoke(agent_id, "hi").status_code == 200
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def deploy_s(caller: Caller, agent_id: str) -> float:
    """The median of some deploys, from the request until a deployment answers."""
    took: list[float] = []
    for _ in range(DEPLOYS):
        began = time.monotonic()
        caller.deploy(agent_id)
        took.append(time.monotonic() - began)
    return statistics.median(took)


def request(method: str, path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = f"Content-Length: {len(body) if length is None else length}"
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", size, *headers])
    return f"{head}\r\n\r\n".encode() + body


def attack(token: str, agent_id: str) -> list[bytes]:
    """A thousand beginnings of requests, and answers that are not read."""
    user = f"Authorization: Bearer {token}"
    telemetry = ("X-Telemetry-Deployment-Id: dep_x", f"X-Telemetry-Signature: v1={'0' * 64}")
    report = request("POST", "/v1/telemetry/report", b"{" * 50_000, *telemetry, length=60_000)
    deploy = request(
        "POST", f"/v1/agents/{agent_id}/deploy", b"{" * 900_000, user, length=1_000_000
    )
    call = request("POST", f"/v1/invoke/{agent_id}", b'{"input":{"prompt":"large"}}', user)
    return [
        *([b""] * 300),
        *([b"POST /v1/agents HTTP/1.1\r\nX-Half: "] * 200),
        *([report] * 200),
        *([deploy] * 200),
        *([call] * 100),
    ]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


@pytest.mark.accept("6.B6")
async def test_a_thousand_slow_connections(stack: Stack) -> None:
    caller, attacker = stack.caller(), stack.caller()
    victim = caller, str(caller.create_agent()["id"])
    caller.deploy(victim[1])
    caller.invoke(victim[1], "hi")
    agent_id: str = attacker.create_agent()["id"]
    attacker.deploy(agent_id, moduleCode=LARGE)
    attacker.invoke(agent_id, "small")
    port = urlsplit(stack.origin).port
    assert port is not None

    usual_ms = await asyncio.to_thread(latency_ms, *victim)
    usual_s = await asyncio.to_thread(deploy_s, *victim)
    async with slow_clients(port, attack(attacker.token, agent_id)) as clients:
        now_ms = await asyncio.to_thread(latency_ms, *victim)
        now_s = await asyncio.to_thread(deploy_s, *victim)
        sizes = {name: resident_mb(pid) for name, pid in stack.pids().items() if name in OURS}
        print(f"\ncalls {usual_ms, now_ms} ms, deploys {usual_s, now_s} s, {sizes}")
        assert {name: mb for name, mb in sizes.items() if mb > MOST_MB} == {}
        assert now_ms <= 1.5 * usual_ms
        assert now_s <= 2 * usual_s
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(*(client.rest() for client in clients))
