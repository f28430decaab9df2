"""One account's slow connections and unanswered probes do nothing to another account's calls."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.account import Account
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.slow import resident_mb, slow_clients
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CALLS = 150
MOST_MB = 200
OURS = ("edge", "api", "gateway", "deployer", "telemetry-ingest", "billing")
ENDED_S = 120
LARGE = """
export default { async invoke(request) {
  return "x".repeat(request.input.messages[0].content === "large" ? 4_000_000 : 1);
} };
"""
# What a probe asks of the script is never answered.
SILENT = """
import * as wrapper from "./webhost-agent.mjs";
queueMicrotask(() => { wrapper.default.prototype.isCallable = () => new Promise(() => {}); });
export default { async invoke() { return "hi"; } };
"""


def latency_ms(caller: Caller, agent_id: str) -> float:
    """The median of some calls, one after the other."""
    took: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        assert caller.post_invoke(agent_id, "hi").status_code == 200
        took.append((time.perf_counter() - began) * 1000)
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


def check(stack: Stack, usual_ms: float, now_ms: float) -> None:
    """The victim's calls have kept their latency, and no process has grown."""
    sizes = {name: resident_mb(pid) for name, pid in stack.pids().items() if name in OURS}
    print(f"usual {usual_ms:.1f} ms, now {now_ms:.1f} ms, {sizes}")
    assert {name: mb for name, mb in sizes.items() if mb > MOST_MB} == {}
    assert now_ms <= 1.5 * usual_ms


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


@pytest.fixture(scope="module")
def victim(stack: Stack) -> tuple[Caller, str]:
    caller = stack.caller()
    agent_id: str = caller.create_agent()["id"]
    caller.deploy(agent_id)
    caller.invoke(agent_id, "hi")
    return caller, agent_id


@pytest.mark.accept("6.B6")
async def test_a_thousand_slow_connections(stack: Stack, victim: tuple[Caller, str]) -> None:
    attacker = stack.caller()
    agent_id: str = attacker.create_agent()["id"]
    attacker.deploy(agent_id, moduleCode=LARGE)
    attacker.invoke(agent_id, "small")
    port = urlsplit(stack.origin).port
    assert port is not None
    usual = await asyncio.to_thread(latency_ms, *victim)
    async with slow_clients(port, attack(attacker.token, agent_id)) as clients:
        now = await asyncio.to_thread(latency_ms, *victim)
        check(stack, usual, now)
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(*(client.rest() for client in clients))


@pytest.mark.accept("6.B6")
def test_probes_without_an_answer(stack: Stack, victim: tuple[Caller, str]) -> None:
    attacker = stack.caller()
    agents = [attacker.create_agent(f"agent {n}")["id"] for n in range(3)]
    usual = latency_ms(*victim)
    probed = [attacker.start_deploy(agent_id, moduleCode=SILENT)["id"] for agent_id in agents]
    account = Account(stack)
    until(lambda: all(map(account.scripts_of, agents)), "all to be uploaded", seconds=30)
    now = latency_ms(*victim)
    assert {attacker.deployment(each)["status"] for each in probed} == {"deploying"}
    check(stack, usual, now)
    ends = {attacker.deploy_ended(each)["status"] for each in probed}
    assert ends == {"failed"}
