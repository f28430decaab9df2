"""Any process may be killed at any moment: once it runs again, everything is as it must be."""

import random
import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.town import FIRST, SECOND, Resident, Town
from tests.support.deadline import until
from tests.support.stack import Stack
from tests.support.traffic import Traffic

FORWARD = ("validate", "session_store", "upload", "route", "probe")
REMOVAL = ("remove_route", "remove_script")
MOMENTS = ("done", "recorded")

CRASH_S = 20
RESULT_S = 90
IN_FORCE_S = 10
LATEST_KILL_S = 0.8
"""About as long as a deployment takes."""


@pytest.fixture(scope="module")
def town(sturdy_stack: Stack) -> Town:
    return Town(sturdy_stack)


@pytest.fixture
def resident(town: Town) -> Resident:
    return town.resident()


@contextmanager
def deploying(resident: Resident) -> Generator[tuple[Traffic, Future[dict[str, Any]]]]:
    """Calls of the agent all the time, and a deployment of its second version under way."""
    with ThreadPoolExecutor(1) as pool, Traffic(resident.user, resident.agent_id) as traffic:
        yield traffic, pool.submit(resident.deploy_second)


def crashes(stack: Stack) -> None:
    """Return when a service has died at the crash point that was set, and runs again."""
    until(stack.crashed, "a service to reach the crash point", seconds=CRASH_S)
    stack.until_ready()


def check(town: Town, resident: Resident, traffic: Traffic, second: dict[str, Any]) -> None:
    """The second version is deployed and answers, the edge is tidy, every call accounted for."""
    resident.check_second_is_in_force(second)
    until(lambda: traffic.call() == SECOND, "the second to answer", seconds=IN_FORCE_S)
    town.until_tidy()
    traffic.check_books()


@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "point",
    [
        *(f"deployer.{step}.{moment}" for step in FORWARD for moment in MOMENTS),
        "api.deploy_requested",
        "api.before_pointer_flip",
    ],
)
def test_a_crash_while_deploying(town: Town, resident: Resident, point: str) -> None:
    town.stack.crash_at(point)
    with deploying(resident) as (traffic, deployment):
        crashes(town.stack)
        second = deployment.result(timeout=RESULT_S)
    assert not traffic.unclear, "neither api nor deployer stands between a caller and the agent"
    check(town, resident, traffic, second)


@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "point",
    [
        *(f"deployer.{step}.{moment}" for step in REMOVAL for moment in MOMENTS),
        "deployer.purge.done",
    ],
)
def test_a_crash_while_tearing_down(town: Town, resident: Resident, point: str) -> None:
    resident.deploy_second()
    town.stack.crash_at(point)
    resident.user.caller.http.delete(f"/v1/agents/{resident.agent_id}").raise_for_status()
    crashes(town.stack)
    town.until_tidy()


@pytest.mark.accept("4")
@pytest.mark.parametrize("point", ["gateway.admitted", "gateway.answered"])
def test_a_gateway_crashes_during_a_call(town: Town, resident: Resident, point: str) -> None:
    traffic = Traffic(resident.user, resident.agent_id)
    until(lambda: traffic.call() == FIRST, "the agent to answer", seconds=IN_FORCE_S)
    town.stack.crash_at(point)
    assert traffic.call() is None
    assert town.stack.crashed()
    assert len(traffic.unclear) == 1
    town.stack.until_ready()
    assert traffic.call() == FIRST
    # On record before it was made: it counts as made, although nobody heard the answer.
    traffic.check_books(admitted_unanswered=1)


@pytest.mark.accept("4")
def test_relays_crash_between_publish_and_mark(town: Town, resident: Resident) -> None:
    with deploying(resident) as (traffic, deployment):
        # Whichever service publishes next: with the calls going on, there always is one.
        for _ in range(4):
            town.stack.crash_at("relay.published")
            until(town.stack.crashed, "a relay to publish", seconds=CRASH_S)
        town.stack.until_ready()
        second = deployment.result(timeout=RESULT_S)
    check(town, resident, traffic, second)


@pytest.mark.accept("4")
@pytest.mark.parametrize(
    "name",
    ["api", "deployer", "gateway", "telemetry-ingest", "billing", "edge", "nats", "postgres"],
)
def test_a_kill_at_a_random_moment(town: Town, resident: Resident, name: str) -> None:
    moment_s = random.uniform(0, LATEST_KILL_S)
    print(f"{name} is killed {moment_s:.3f} s after the deployment was asked for")
    with deploying(resident) as (traffic, deployment):
        threading.Event().wait(moment_s)
        town.stack.kill(name)
        second = deployment.result(timeout=RESULT_S)
    check(town, resident, traffic, second)
