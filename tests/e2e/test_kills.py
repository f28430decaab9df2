"""Any process may be killed at any moment: once it runs again, everything is as it must be."""

import random
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest

from tests.e2e.world import FIRST, SECOND, Resident, World
from tests.support.account import Account
from tests.support.deadline import until
from tests.support.stack import Stack
from tests.support.traffic import Traffic

FORWARD = ("validate", "session_store", "upload", "route", "probe")
REMOVAL = ("remove_route", "remove_script")
MOMENTS = ("done", "recorded")
SERVICES = ("api", "deployer", "gateway", "telemetry-ingest", "billing")
OTHERS = ("edge", "nats", "postgres")

CRASH_S = 20
RESULT_S = 90
IN_FORCE_S = 10
LATEST_KILL_S = 0.8
"""About as long as a deployment takes."""


@dataclass(frozen=True)
class Crash:
    """A service dies at a named point. Neither api nor deployer stands between calls and agents."""

    point: str
    spares_calls = True

    def prepare(self, stack: Stack) -> None:
        stack.crash_at(self.point)

    def strike(self, stack: Stack) -> None:
        """Return when it has died there, and runs again."""
        until(stack.crashed, "a service to reach the crash point", seconds=CRASH_S)
        stack.until_ready()


@dataclass(frozen=True)
class RelayCrashes:
    """Whichever service's relay publishes next dies before it marks that, four times over."""

    spares_calls = False

    def prepare(self, stack: Stack) -> None:
        stack.crash_at("relay.published")

    def strike(self, stack: Stack) -> None:
        """Return when all have died and run again: with the calls going on, one publishes."""
        for _ in range(3):
            until(stack.crashed, "a relay to publish", seconds=CRASH_S)
            stack.crash_at("relay.published")
        Crash("relay.published").strike(stack)


@dataclass(frozen=True)
class Kill:
    """A process is killed at a moment that nobody chose."""

    name: str
    spares_calls = False

    def prepare(self, stack: Stack) -> None:
        pass

    def strike(self, stack: Stack) -> None:
        moment_s = random.uniform(0, LATEST_KILL_S)
        print(f"{self.name} is killed {moment_s:.3f} s after the deployment was asked for")
        threading.Event().wait(moment_s)
        stack.kill(self.name)


def faults() -> list[Crash | RelayCrashes | Kill]:
    """All faults; the supervisor is slower to restart what has just died, so the deployer rests."""
    deployer = [Crash(f"deployer.{step}.{moment}") for step in FORWARD for moment in MOMENTS]
    others = [
        Crash("api.deploy_requested"),
        Crash("api.before_pointer_flip"),
        RelayCrashes(),
        *map(Kill, SERVICES + OTHERS),
    ]
    pairs = zip_longest(deployer, others)
    return [fault for pair in pairs for fault in pair if fault is not None]


@pytest.fixture(scope="module")
def world(sturdy_stack: Stack) -> Iterator[World]:
    with closing(Account(sturdy_stack)) as account:
        yield World(sturdy_stack, account)


@pytest.fixture
def resident(world: World) -> Resident:
    return world.resident()


@contextmanager
def deploying(resident: Resident) -> Generator[tuple[Traffic, Future[dict[str, Any]]]]:
    """Calls of the agent all the time, and a deployment of its second version under way."""
    with ThreadPoolExecutor(1) as pool, Traffic(resident.user, resident.agent_id) as traffic:
        yield traffic, pool.submit(resident.deploy_second)


def check(world: World, resident: Resident, traffic: Traffic, second: dict[str, Any]) -> None:
    """The second version is deployed and answers, the edge is tidy, every call accounted for."""
    resident.check_second_is_in_force(second)
    until(lambda: traffic.call() == SECOND, "the second to answer", seconds=IN_FORCE_S)
    world.until_tidy()
    traffic.check_books()


@pytest.mark.accept("4")
@pytest.mark.parametrize("fault", faults(), ids=repr)
def test_a_fault_while_deploying(
    world: World, resident: Resident, fault: Crash | RelayCrashes | Kill
) -> None:
    fault.prepare(world.stack)
    with deploying(resident) as (traffic, deployment):
        fault.strike(world.stack)
        second = deployment.result(timeout=RESULT_S)
    assert not (fault.spares_calls and traffic.unclear)
    check(world, resident, traffic, second)


@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "point",
    [
        *(f"deployer.{step}.{moment}" for step in REMOVAL for moment in MOMENTS),
        "deployer.purge.done",
    ],
)
def test_a_crash_while_tearing_down(world: World, resident: Resident, point: str) -> None:
    resident.deploy_second()
    crash = Crash(point)
    crash.prepare(world.stack)
    resident.user.caller.http.delete(f"/v1/agents/{resident.agent_id}").raise_for_status()
    crash.strike(world.stack)
    world.until_tidy()


@pytest.mark.accept("4")
@pytest.mark.parametrize("point", ["gateway.admitted", "gateway.answered"])
def test_a_gateway_crashes_during_a_call(world: World, resident: Resident, point: str) -> None:
    traffic = Traffic(resident.user, resident.agent_id)
    until(lambda: traffic.call() == FIRST, "the agent to answer", seconds=IN_FORCE_S)
    world.stack.crash_at(point)
    assert traffic.call() is None
    assert world.stack.crashed()
    assert len(traffic.unclear) == 1
    world.stack.until_ready()
    assert traffic.call() == FIRST
    # On record before it was made: it counts as made, although nobody heard the answer.
    traffic.check_books(admitted_unanswered=1)
