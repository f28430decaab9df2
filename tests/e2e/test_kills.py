"""Any process may be killed while an agent is deployed, called or torn down.

Once all run again, everything is consistent: pointer, edge, facts, and usage to the token.
Which process died, and after which fact, is printed and recorded; a kill that came after the work
had ended is repeated at another moment. `test_kills_of_operations.py` has the other operations.
"""

import random
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest
from webhost_kit.clock import now_ms

from tests.e2e.world import FIRST, SECOND, TestAgent
from tests.support.deadline import until
from tests.support.faults import Crash, Death, Fault, Freeze, Kill, RelayCrashes
from tests.support.reports import Reports
from tests.support.stack import Stack
from tests.support.traffic import PACE_S, Traffic

FORWARD = ("validate", "session_store", "upload", "route", "probe", "secrets")
REMOVAL = ("remove_route", "remove_script")
MOMENTS = ("done", "recorded")
USUAL = ("upload", "probe", "remove_script")
"""Steps whose crashes are tried with every change; every step's are in the deployer's own tests."""
SERVICES = ("api", "deployer", "gateway", "telemetry-ingest", "billing")
OTHERS = ("edge", "nats", "postgres")

RESULT_S = 90
IN_FORCE_S = 10
LATEST_KILL_S = 0.5
"""About half as long as a deployment takes: a kill that comes too late is repeated."""
ATTEMPTS = 5

Record = Callable[[str, object], None]


def faults() -> list[Fault]:
    """All faults, the deployer's between others: a process that just died is restarted slowly."""
    deployer = [Crash(f"deployer.{step}.{moment}") for step in FORWARD for moment in MOMENTS]
    others = [
        Crash("api.deploy_requested"),
        Crash("api.before_pointer_flip"),
        RelayCrashes(),
        *map(Kill, SERVICES + OTHERS),
    ]
    pairs = zip_longest(deployer, others)
    return [fault for pair in pairs for fault in pair if fault is not None]


def marks_of(point: str | None) -> tuple[pytest.MarkDecorator, ...]:
    """Leave the crashes at the steps that are not USUAL to `make test-long`."""
    service, _, rest = (point or "").partition(".")
    is_usual = service != "deployer" or rest.startswith(USUAL)
    return () if is_usual else (pytest.mark.long,)


@dataclass
class Work:
    """A deployment of an agent's second version, with calls and reports around it."""

    agent: TestAgent
    traffic: Traffic
    reports: Reports
    before: dict[str, int]
    asked_ms: int
    deployment: Future[dict[str, Any]]


@contextmanager
def deploying(
    stack: Stack, chance: random.Random, fault: Fault, *, pace_s: float = PACE_S
) -> Generator[Work]:
    agent = TestAgent.on(stack)
    before = fault.prepare(stack)
    with (
        ThreadPoolExecutor(1) as pool,
        Traffic(agent.user, agent.agent_id, pace_s=pace_s) as traffic,
        Reports(stack, agent.first, chance) as reports,
    ):
        yield Work(agent, traffic, reports, before, now_ms(), pool.submit(agent.deploy_second))


def check(work: Work, second: dict[str, Any], death: Death) -> None:
    """The second version is deployed and answers, the edge is tidy, every call accounted for."""
    agent, traffic = work.agent, work.traffic
    agent.check_second_is_in_force(second)
    traffic.until_answered(SECOND, seconds=IN_FORCE_S)
    agent.until_tidy()
    assert traffic.answered
    assert work.reports.acknowledged
    traffic.check_usage(
        possible_texts=(FIRST, SECOND), deaths=[death], reports=work.reports.acknowledged
    )
    agent.check_history()
    agent.until_every_gateway(200, SECOND)


def note(record: Record, work: Work, fault: Fault, death: Death) -> None:
    """Print and record who died where."""
    stated = [fact for fact in work.agent.history() if fact.at_ms <= death.at_ms]
    line = (
        f"{fault}: {', '.join(sorted(death.names))} died {death.at_ms - work.asked_ms} ms into the"
        f" work, {death.back_ms - death.at_ms} ms until all was back; last fact: {stated[-1]}"
    )
    print(line)
    record("death", line)


@pytest.mark.accept("6.durable")
@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=repr(fault), marks=marks_of(fault.point)) for fault in faults()],
)
@pytest.mark.timeout(300)
def test_a_fault_while_deploying(
    sturdy_stack: Stack, chance: random.Random, record_property: Record, fault: Fault
) -> None:
    latest_s = LATEST_KILL_S
    for _ in range(ATTEMPTS):
        with deploying(sturdy_stack, chance, fault) as work:
            death = fault.strike(sturdy_stack, work.before, chance.uniform(0, latest_s))
            second = work.deployment.result(timeout=RESULT_S)
        note(record_property, work, fault, death)
        assert not (fault.spares_calls and work.traffic.unclear)
        check(work, second, death)
        if fault.point is not None or death.at_ms < second["finishedAtMs"]:
            check_who_died(fault, death)
            return
        latest_s /= 2
    pytest.fail(f"none of {ATTEMPTS} kills fell inside the work")


def check_who_died(fault: Fault, death: Death) -> None:
    if isinstance(fault, Crash):
        service = fault.point.partition(".")[0]
        assert all(name.startswith(service) for name in death.names), death
    elif isinstance(fault, Kill | Freeze):
        assert fault.name in death.names


@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "point",
    [
        *(
            pytest.param(point, marks=marks_of(point))
            for step in REMOVAL
            for moment in MOMENTS
            if (point := f"deployer.{step}.{moment}")
        ),
        "deployer.purge.done",
    ],
)
def test_a_crash_while_tearing_down(sturdy_stack: Stack, point: str) -> None:
    agent = TestAgent.on(sturdy_stack)
    agent.deploy_second()
    crash = Crash(point)
    before = crash.prepare(sturdy_stack)
    agent.user.delete(f"/v1/agents/{agent.agent_id}")
    check_who_died(crash, crash.strike(sturdy_stack, before, 0))
    agent.until_tidy()
    agent.check_history()


@pytest.mark.accept("4")
@pytest.mark.parametrize("point", ["gateway.admitted", "gateway.answered"])
def test_a_gateway_crashes_during_a_call(sturdy_stack: Stack, point: str) -> None:
    agent = TestAgent.on(sturdy_stack)
    traffic = Traffic(agent.user, agent.agent_id)
    until(lambda: traffic.call() == FIRST, "the agent to answer", seconds=IN_FORCE_S)
    crash = Crash(point)
    before = crash.prepare(sturdy_stack)
    assert traffic.call() is None
    death = crash.strike(sturdy_stack, before, 0)
    check_who_died(crash, death)
    assert len(traffic.unclear) == 1
    assert traffic.call() == FIRST
    # Recorded before it was made: it counts as made, although its answer was never received.
    traffic.check_usage(possible_texts=(FIRST,), deaths=[death], admitted_unanswered=1)
