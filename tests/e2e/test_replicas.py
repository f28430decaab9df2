"""With two gateways and two billing processes every limit and every total is exact, as with one of
each, and stays so when one of each dies in the middle.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from webhost_contracts.subjects import PARTITIONS

from tests.e2e.test_limits import TELLING, deployed, limit_of
from tests.e2e.world import FIRST, TestAgent
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.faults import Death, Kill
from tests.support.gate import running_gate
from tests.support.promql import Scrapes
from tests.support.reports import Reports
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack
from tests.support.traffic import Traffic

MANY = 8
LEFT = 200
"""Calls that the user has left: enough for both deaths to fall between them."""
PACE_S = 0.3
ADMITTED = 'webhost_gateway_admission_duration_seconds_count{outcome="admitted"}'
COUNTED_S = 40


@pytest.fixture(scope="module")
def doubled() -> Iterator[Stack]:
    with running_stack("--replicas", "gateway=2,billing=2") as running:
        yield running


def leave(stack: Stack, caller: Caller, calls: int) -> int:
    """Let the user have so many calls left of its quota; return how many it has used by then."""
    limit = caller.usage()["limits"]["requests"]
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        used = "UPDATE gateway.quotas SET requests = %s WHERE user_id = %s"
        assert connection.execute(used, (limit - calls, caller.me()["id"])).rowcount == 1
    return limit


def admitted(stack: Stack, gateway: str) -> float:
    """How many calls this gateway has admitted since it began."""
    scrapes = Scrapes()
    scrapes.add(0, stack.metrics(gateway))
    value = scrapes.value(ADMITTED, 0)
    assert isinstance(value, dict)
    return sum(value.values())


class Callers:
    """Several of one user's callers at once, until each is told that the quota is used up."""

    def __init__(self, stack: Stack, token: str, agent_id: str, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stack, self._token, self._agent_id, self._url = stack, token, agent_id, url
        self._lock = threading.Lock()

    def call_until_refused(self, number: int) -> int:
        """Return the limit that the refusal names."""
        own = Caller(self._stack.origin, self._token)
        with own.http:
            while True:
                try:
                    answer = own.post_invoke(self._agent_id, f"{self._url}/{number}")
                except httpx.TransportError:
                    answer = None
                if answer is not None and answer.status_code == 402:
                    refusal = limit_of(answer)
                    assert refusal["limitType"] == "requests"
                    return refusal["limit"]
                clear = answer is not None and answer.status_code == 200
                with self._lock:
                    self.outcomes["answered" if clear else "unclear"] += 1


@pytest.mark.accept("10.replicas")
@pytest.mark.timeout(300)
def test_exactly_the_quota_while_one_of_each_dies(doubled: Stack) -> None:
    caller = doubled.caller()
    agent_id = deployed(caller, TELLING)
    with running_gate() as (url, gate):
        gate.open_all()
        caller.invoke(agent_id, f"{url}/first")
        limit = leave(doubled, caller, LEFT)
        callers = Callers(doubled, caller.token, agent_id, url)
        with ThreadPoolExecutor(MANY) as pool:
            calls = [pool.submit(callers.call_until_refused, number) for number in range(MANY)]
            gate.wait_for_requests(LEFT // 4, seconds=60)
            assert all(admitted(doubled, name) > 0 for name in ("gateway", "gateway-2"))
            doubled.kill("billing-2")
            doubled.kill("gateway-2")
            assert {call.result(timeout=120) for call in calls} == {limit}
        reached = len(gate.asked)
        assert limit_of(caller.post_invoke(agent_id, f"{url}/more"))["limitType"] == "requests"
        assert len(gate.asked) == reached
    outcomes = callers.outcomes
    print(f"{LEFT} left: {dict(outcomes)}, {reached - 1} reached the agent")
    # The first call is in none of these.
    assert max(outcomes["answered"], LEFT - MANY) <= reached - 1 <= LEFT
    assert outcomes["answered"] + outcomes["unclear"] >= LEFT
    until(
        lambda: caller.usage()["usage"]["requests"] == 1 + LEFT,
        "exactly the quota to be counted",
        seconds=COUNTED_S,
    )


@pytest.mark.accept("10.replicas")
@pytest.mark.timeout(400)
def test_usage_is_exact_while_one_of_each_dies(doubled: Stack, chance: random.Random) -> None:
    agent = TestAgent.on(doubled)
    deaths: list[Death] = []
    with (
        Traffic(agent.user, agent.agent_id, pace_s=PACE_S, keyed=True) as traffic,
        Reports(doubled, agent.first, chance, repeats=True) as reports,
    ):
        for name in ("gateway", "billing", "gateway-2", "billing-2"):
            kill = Kill(name)
            deaths.append(kill.strike(doubled, kill.prepare(doubled), chance.uniform(0, 1)))
    assert traffic.answered
    assert reports.acknowledged
    traffic.check_usage(possible_texts=(FIRST,), deaths=deaths, reports=reports.acknowledged)
    rebuilt = doubled.webhost("billing", "verify")
    assert rebuilt.returncode == 0


# The locks of the partitions of usage, by who holds them; those of its members are shared.
HELD = """
SELECT array_agg(objid::integer) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted
    AND classid = hashtext('billing usage of billing')::oid
GROUP BY pid
"""


def held(stack: Stack) -> list[set[int]]:
    """The partitions of usage that each billing process has."""
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        return [{*partitions} for (partitions,) in connection.execute(HELD)]


@pytest.mark.timeout(240)
def test_a_replica_is_added(tmp_path: Path) -> None:
    with running_stack() as single:
        agent = TestAgent.on(single)
        with Traffic(agent.user, agent.agent_id, pace_s=PACE_S) as traffic:
            until(lambda: len(traffic.answered) >= MANY, "some calls", seconds=COUNTED_S)
        traffic.check_usage(possible_texts=(FIRST,))
        used = agent.user.get("/v1/usage/current")["usage"]
        with single.stopped("--replicas", "gateway=2,billing=2"):
            pass
        assert {"gateway-2", "billing-2"} <= single.pids().keys()
        single.until_ready()
        for section in ("Steps", "How to see that it worked"):
            with Runbook(single, "add-replica.md", section, tmp_path) as runbook:
                runbook.rest(within=COUNTED_S)
        until(lambda: len(held(single)) == 2, "two processes with partitions", seconds=COUNTED_S)
        assert sorted(map(len, held(single))) == [PARTITIONS // 2] * 2
        assert set[int]().union(*held(single)) == {*range(PARTITIONS)}
        assert agent.user.get("/v1/usage/current")["usage"] == used
