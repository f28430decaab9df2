"""Everything between a call and its bill dies again and again under load; the books stay exact.

A round is one fault after the other while several users call and report; after it, each call that
was answered and each report that was acknowledged is counted once, with its tokens.
"""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from tests.e2e.world import FIRST, TestAgent
from tests.support.faults import Crash, Death, Fault, Kill
from tests.support.reports import Reports
from tests.support.stack import Stack
from tests.support.traffic import Traffic

KILLED = ("gateway", "telemetry-ingest", "billing", "nats", "postgres")
POINTS = (
    "gateway.claiming",
    "gateway.admitted",
    "gateway.answered",
    "gateway.written",
    "gateway.recorded",
    "relay.published",
    "billing.folding",
)
"""Crash points that a call passes on its way to its bill."""
FAULTS = 100
FAULTS_PER_ROUND = 5
USERS = 3
PACE_S = 0.6
REPORTS_PACE_S = 2.0
"""Between a user's calls, and reports: a round's are not more than the list in which they are
looked up can hold, and do not end before its last fault."""


@pytest.mark.accept("8.kills")
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_kills_under_load(sturdy_stack: Stack, chance: random.Random) -> None:
    faults = [*map(Crash, POINTS), *map(Kill, _spread(FAULTS - len(POINTS)))]
    chance.shuffle(faults)
    killed: Counter[str] = Counter()
    calls = reports = unclear = 0
    for number in range(0, FAULTS, FAULTS_PER_ROUND):
        deaths, round_ = _round(sturdy_stack, chance, faults[number : number + FAULTS_PER_ROUND])
        killed.update(name for death in deaths for name in death.names)
        for traffic, reported in round_:
            traffic.check_usage(
                possible_texts=(FIRST,), deaths=deaths, reports=reported.acknowledged
            )
            calls += len(traffic.answered)
            unclear += len(traffic.unclear)
            reports += len(reported.acknowledged)
        print(
            f"{number + len(deaths)} faults: {calls} calls answered, {unclear} unclear,"
            f" {reports} reports acknowledged; died: {dict(killed)}"
        )
    assert all(killed[name] >= 10 for name in KILLED[1:]), killed
    assert sum(count for name, count in killed.items() if name.startswith("gateway")) >= 10


def _spread(count: int) -> list[str]:
    return list(itertools.islice(itertools.cycle(KILLED), count))


def _round(
    stack: Stack, chance: random.Random, faults: Sequence[Fault]
) -> tuple[list[Death], list[tuple[Traffic, Reports]]]:
    """Return who died, and what the users saw and reported meanwhile."""
    agents = [TestAgent.on(stack) for _ in range(USERS)]
    with ExitStack() as running:
        seen = [
            (
                running.enter_context(
                    Traffic(agent.user, agent.agent_id, pace_s=PACE_S, keyed=True)
                ),
                running.enter_context(
                    Reports(stack, agent.first, chance, pace_s=REPORTS_PACE_S, repeats=True)
                ),
            )
            for agent in agents
        ]
        deaths = [
            fault.strike(stack, fault.prepare(stack), chance.uniform(0, 1)) for fault in faults
        ]
    return deaths, seen
