"""A NATS cluster goes on without any one of its three servers, and loses nothing acknowledged.

Each test is a server's end under calls, reports and deployments; after it, what was answered or
acknowledged is counted once, and each fact that a service recorded is on the stream. With
WEBHOST_TEST_NATS_NODES=3 every other end-to-end test runs on a cluster too.
"""

import random
from collections.abc import Iterator

import pytest
from webhost_contracts import subjects

from tests.e2e.test_kills import RESULT_S, Record, check, deploying, note
from tests.e2e.world import SECOND, answering
from tests.support.cluster import leader, nodes, until_whole
from tests.support.faults import Fault, Freeze, Kill
from tests.support.stack import Stack, running_stack

FROZEN_S = 20.0
FROZEN_PACE_S = 0.4
"""Between two calls, so that they go on for as long as a server stands still."""
OTHERS_NAME = "another"
LED_AGAIN_S = 12
"""How long the other two take at most until calls are answered again: they elect leaders."""


@pytest.fixture(scope="module")
def clustered() -> Iterator[Stack]:
    with running_stack("--replicas", "gateway=2,billing=2", "--nats-nodes", "3") as running:
        yield running


@pytest.mark.accept("10.cluster")
@pytest.mark.timeout(400)
def test_the_leader_dies(clustered: Stack, chance: random.Random, record_property: Record) -> None:
    until_whole(clustered)
    fault = Kill(leader(clustered, subjects.USAGE))
    with deploying(clustered, chance, fault) as work:
        death = fault.strike(clustered, work.before, chance.uniform(0, 1))
        second = work.deployment.result(timeout=RESULT_S)
    note(record_property, work, fault, death)
    assert death.names == {fault.name}
    check(work, second, death)


@pytest.mark.long
@pytest.mark.accept("10.cluster")
@pytest.mark.timeout(1800)
def test_each_in_turn_dies_and_stands_still(
    clustered: Stack, chance: random.Random, record_property: Record
) -> None:
    faults: list[Fault] = []
    for name in nodes(clustered):
        faults += [Kill(name), Freeze(name, FROZEN_S)]
    assert len(faults) == 6
    for fault in faults:
        until_whole(clustered)
        led = leader(clustered)
        with deploying(clustered, chance, fault, pace_s=FROZEN_PACE_S) as work:
            user, before = work.agent.user, clustered.pids()
            death = fault.strike(clustered, work.before, chance.uniform(0, 1))
            second = work.deployment.result(timeout=RESULT_S)
            other = user.post("/v1/agents", name=OTHERS_NAME)["agent"]
            deployment = user.deploy(other["id"], moduleCode=answering(SECOND))
        note(record_property, work, fault, death)
        print(
            f"  {led} led {subjects.USAGE}; {len(work.traffic.answered)} calls answered,"
            f" {len(work.traffic.unclear)} unclear, {len(work.reports.acknowledged)} reports"
        )
        assert deployment["status"] == "active"
        # Nobody else is upset by it.
        changed = {name for name, pid in clustered.pids().items() if before[name] != pid}
        assert changed <= {fault.name}
        user.delete(f"/v1/agents/{other['id']}")
        if isinstance(fault, Freeze):
            # The other two lead on by then, without waiting for it.
            led_ms = death.at_ms + 1000 * LED_AGAIN_S, death.at_ms + 1000 * FROZEN_S
            assert any(
                led_ms[0] <= call.at_ms <= led_ms[1] for call in work.traffic.answered.values()
            )
        check(work, second, death)
