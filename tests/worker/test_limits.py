"""Processor time of an agent's code, by tier: a script's own limit, or that of each call."""

import time

import msgspec
import pytest
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError

from tests.support.deadline import eventually
from tests.worker.harness import CPU_MS, Harness

SPINS = """
export default { invoke({ input }) {
  const [what, ms] = input.messages.at(-1).content.split(" ");
  for (const end = Date.now() + Number(ms); what === "spin" && !(Date.now() > end); );
  return "answered";
} };
"""
SPINS_WHEN_PROBED = """
import Agent from "./webhost-agent.mjs";
queueMicrotask(() => { Agent.prototype.isCallable = () => { for (;;); }; });
export default { invoke: () => "answered" };
"""
SOON_S = 10.0
"""Far below the 30 s that a script has which nobody limits."""


async def answers_again(harness: Harness, deployment: Deployment) -> None:
    async def answered() -> bool:
        _, answer = await harness.call(deployment, "hello", timeout_ms=500)
        if answer.status != 200:
            return False
        return msgspec.json.decode(answer.body)["output"] == {"text": "answered"}

    await eventually(answered, "an answer", seconds=SOON_S)


@pytest.mark.accept("6.A3")
async def test_a_call_computes_no_longer_than_its_tier_allows(harness: Harness) -> None:
    deployment = await harness.deploy(SPINS)
    _, answer = await harness.call(deployment, "spin", timeout_ms=1_000)
    assert answer.status in (500, 502)
    await answers_again(harness, deployment)


@pytest.mark.accept("6.A3")
async def test_another_tier_is_in_force_at_once_in_a_namespace(harness: Harness) -> None:
    deployment = await harness.deploy(SPINS)
    _, answer = await harness.call(
        deployment, f"spin {6 * CPU_MS}", timeout_ms=10_000, cpu_ms=20 * CPU_MS
    )
    assert answer.status == (200 if harness.layout == "namespace" else 502)


@pytest.mark.accept("6.A3")
async def test_a_probe_computes_no_longer_than_its_tier_allows(harness: Harness) -> None:
    deployment = await harness.deploy(SPINS_WHEN_PROBED)
    began = time.monotonic()
    with pytest.raises(ProviderError):
        await harness.provider.probe(deployment)
    assert time.monotonic() - began < SOON_S / 2
    await answers_again(harness, deployment)
