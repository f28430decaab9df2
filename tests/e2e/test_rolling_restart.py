"""Every process of every service is ended and started again in turn, and nobody notices.

Calls, streams, reports and deployments go on meanwhile. WEBHOST_TEST_RATE is how many calls
a second are tried; how many were made is printed.
"""

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.world import answering
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.repeating import Repeating
from tests.support.reports import Reports
from tests.support.retrying import RetryingClient
from tests.support.stack import Stack, kind_of, running_stack
from tests.support.steady import Agent, Steady, summary
from tests.support.traffic import PROMPT, tokens_of

SERVICES = ("api", "gateway", "deployer", "telemetry-ingest", "billing")
RATE = float(os.environ.get("WEBHOST_TEST_RATE", "200"))
LEAST_RATE = 25.0
"""Fewer calls a second would not meet every moment of a restart."""
AT_ONCE = 32
USERS = 3
STREAMS = 4
DEPLOY_PAUSE_S = 1.0
"""Cloudflare allows four calls a second, and a deployment takes several."""
COUNTED_S = 60
TEXT = "still here"
CHUNKS, CHUNK_MS = 40, 500
"""A stream takes twenty seconds: much longer than a process that ends waits for anything else."""
STREAMING = f"""
export default {{ async invoke() {{ return chunks(); }} }};
async function* chunks() {{
  for (let k = 0; k < {CHUNKS}; k++) {{
    yield `${{k}} `;
    await new Promise((done) => setTimeout(done, {CHUNK_MS}));
  }}
}}
"""


@pytest.fixture(scope="module")
def doubled() -> Iterator[Stack]:
    with running_stack("--replicas", ",".join(f"{name}=2" for name in SERVICES)) as running:
        yield running


def agent_of(caller: Caller, module: str, text: str) -> tuple[Agent, dict[str, Any]]:
    agent = caller.create_agent(secrets.token_hex(4))
    deployment = caller.deploy(agent["id"], moduleCode=module)
    assert caller.invoke(agent["id"], PROMPT)["output"]["text"] == text
    return Agent(caller.token, agent["id"], text), deployment


def says(caller: Caller, agent_id: str, text: str) -> bool:
    answer = caller.post_invoke(agent_id, PROMPT)
    return answer.status_code == 200 and answer.json()["output"]["text"] == text


def restart(stack: Stack, name: str) -> float:
    """End it as an upgrade does; return how long it took until it was ready again."""
    began, before = time.monotonic(), stack.pids()
    os.kill(before[name], signal.SIGTERM)
    assert stack.until_replaced(before) == {name}
    stack.until_ready()
    return time.monotonic() - began


@pytest.mark.long
@pytest.mark.quiet
@pytest.mark.accept("10.rolling")
@pytest.mark.timeout(1200)
def test_nobody_notices_a_rolling_restart(doubled: Stack, chance: random.Random) -> None:
    callers = [doubled.unlimited_caller() for _ in range(USERS)]
    agents = [agent_of(caller, answering(TEXT), TEXT) for caller in callers]
    streamed = "".join(f"{number} " for number in range(CHUNKS))
    streaming = [agent_of(callers[0], STREAMING, streamed)]
    deploying = RetryingClient(doubled.unlimited_caller(), strict=True)
    deployed_id = deploying.caller.create_agent()["id"]

    def deploy(number: int) -> None:
        deployment = deploying.deploy(deployed_id, moduleCode=answering(f"number {number}"))
        assert deployment["status"] == "active", deployment
        until(lambda: says(deploying.caller, deployed_id, f"number {number}"), "it to be called")
        time.sleep(DEPLOY_PAUSE_S)

    steady = Steady(
        doubled.origin,
        [agent for agent, _ in agents],
        [agent for agent, _ in streaming],
        rate=RATE,
        at_once=AT_ONCE,
        streams=STREAMS,
    )
    restarted = [name for name in doubled.pids() if kind_of(name) in SERVICES]
    assert len(restarted) == 2 * len(SERVICES)
    with (
        steady,
        Reports(doubled, agents[1][1], chance, pace_s=1.0, repeats=True, strict=True) as reports,
        Repeating(deploy) as deploys,
    ):
        deploys.wait_for(1)
        took = {name: round(restart(doubled, name), 1) for name in restarted}
        deploys.wait_for(1)

    everybody = [agent for agent, _ in agents + streaming]
    calls, streams = summary([agent for agent, _ in agents]), summary([streaming[0][0]])
    print(
        f"\n{steady.took_s:.0f} s at {calls['answered'] / steady.took_s:.0f} calls/s of {RATE:.0f}"
    )
    print(f"calls {dict(calls)}, {steady.held} held back; streams {dict(streams)}")
    longest_ms = max(agent.counted.longest_ms for agent, _ in agents)
    print(f"the slowest call took {longest_ms:.0f} ms, tries included")
    print(f"{len(reports.acknowledged)} reports, {deploys.done} deployments; restarts {took}")
    failures = [one for agent in everybody for one in agent.counted.failed]
    assert failures == [], failures[:5]
    assert calls["cut_off"] == streams["cut_off"] == 0
    assert min(agent.counted.answered for agent in everybody) > 0
    assert calls["answered"] / steady.took_s >= LEAST_RATE
    assert reports.acknowledged
    for caller, own in zip(callers, _by_user(agents, streaming), strict=True):
        reported = list(reports.acknowledged.values()) if own[0] is agents[1][0] else []
        _check_usage(caller, own, reported)
    doubled.webhost("billing", "verify")


def _by_user(
    agents: list[tuple[Agent, Any]], streaming: list[tuple[Agent, Any]]
) -> list[list[Agent]]:
    own = [[agent] for agent, _ in agents]
    own[0] += [agent for agent, _ in streaming]
    return own


def _check_usage(caller: Caller, own: list[Agent], reported: list[int]) -> None:
    """Every call is counted once, with its Worker's tokens, and so is every report."""
    # Each agent's first call was made before.
    requests = sum(1 + agent.counted.answered for agent in own) + len(reported)
    tokens = sum(agent.counted.tokens + tokens_of(agent.text) for agent in own) + sum(reported)

    def counted() -> bool:
        usage = caller.usage()["usage"]
        return (usage["requests"], usage["llmTokens"]) == (requests, tokens)

    until(counted, f"{requests} requests with {tokens} tokens to be counted", seconds=COUNTED_S)
