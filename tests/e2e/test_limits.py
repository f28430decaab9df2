"""The free tier's limits are a hard stop: no call beyond them reaches the runtime."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.gate import running_gate
from tests.support.stack import Stack

MANY = 8
"""Concurrent callers: few enough that calls that die with a gateway leave room for the others."""

# Calls the URL in the prompt before it answers, to show that it runs.
TELLING = """
export default {
  async invoke(request) {
    const answer = await fetch(request.input.messages.at(-1).content);
    return `told, ${answer.status}`;
  },
};
"""

SPENDING = """
export default {
  async invoke() {
    return { output: { text: "All of it." }, usage: { tokens: 250000 } };
  },
};
"""

ZEROS = """
export default {
  async invoke() {
    return { output: { text: "Nothing." }, usage: { tokens: 0, toolCalls: 0, computeMs: 0 } };
  },
};
"""
LEFT = 3


@pytest.fixture
def caller(sturdy_stack: Stack) -> Caller:
    return sturdy_stack.caller()


def deployed(caller: Caller, module: str) -> str:
    agent = caller.create_agent()
    caller.deploy(agent["id"], moduleCode=module)
    return agent["id"]


def limit_of(answer: httpx.Response, *, retryable: bool = False) -> dict[str, Any]:
    """Check the refusal; return its details."""
    assert answer.status_code == 402, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["retryable"]) == ("LIMIT_EXCEEDED", retryable)
    return error["details"]


@pytest.mark.long
@pytest.mark.accept("7.requests")
@pytest.mark.accept("limits")
def test_the_call_after_the_last_one_never_reaches_the_runtime(
    sturdy_stack: Stack, caller: Caller
) -> None:
    """With two gateways, one of which is killed in the middle, and eight callers at once."""
    agent_id = deployed(caller, TELLING)
    limit = caller.usage()["limits"]["requests"]
    with running_gate() as (url, gate):
        gate.open_all()
        caller.invoke(agent_id, f"{url}/first")
        outcomes: Counter[str] = Counter(answered=1)
        lock = threading.Lock()

        def call_until_refused(number: int) -> dict[str, Any]:
            own = Caller(sturdy_stack.origin, caller.token)
            with own.http:
                while True:
                    try:
                        answer = own.post_invoke(agent_id, f"{url}/{number}")
                    except httpx.TransportError:
                        answer = None
                    if answer is not None and answer.status_code == 402:
                        return limit_of(answer)
                    clear = answer is not None and answer.status_code == 200
                    with lock:
                        outcomes["answered" if clear else "unclear"] += 1

        with ThreadPoolExecutor(MANY) as pool:
            calls = [pool.submit(call_until_refused, number) for number in range(MANY)]
            gate.wait_for_requests(limit // 4, seconds=60)
            sturdy_stack.kill("gateway-2")
            refusals = [call.result(timeout=90) for call in calls]

        assert {refusal["limitType"] for refusal in refusals} == {"requests"}
        assert {refusal["limit"] for refusal in refusals} == {limit}
        reached = len(gate.asked)
        for _ in range(MANY):
            assert limit_of(caller.post_invoke(agent_id, f"{url}/more"))["limitType"] == "requests"
        assert len(gate.asked) == reached
    assert outcomes["answered"] <= reached <= limit
    assert outcomes["answered"] + outcomes["unclear"] >= limit
    until(
        lambda: caller.usage()["usage"]["requests"] == limit,
        "exactly the limit to be counted",
        seconds=30,
    )


@pytest.mark.accept("7.concurrency")
@pytest.mark.accept("limits")
def test_one_call_more_than_may_run_at_once_never_reaches_the_runtime(caller: Caller) -> None:
    agent_id = deployed(caller, TELLING)
    limit = caller.me()["entitlements"]["concurrency"]
    with ThreadPoolExecutor(limit) as pool, running_gate() as (url, gate):
        gate.open("/first")
        caller.invoke(agent_id, f"{url}/first")
        held = [
            pool.submit(caller.post_invoke, agent_id, f"{url}/{number}") for number in range(limit)
        ]
        gate.wait_for_requests(1 + limit, seconds=30)
        for _ in range(3):
            refused = limit_of(caller.post_invoke(agent_id, f"{url}/more"), retryable=True)
            assert (refused["limitType"], refused["limit"]) == ("concurrency", limit)
        gate.open_all()
        assert [call.result(timeout=30).status_code for call in held] == [200] * limit
        assert "/more" not in gate.asked
        assert len(gate.asked) == 1 + limit
        until(
            lambda: caller.post_invoke(agent_id, f"{url}/after").status_code == 200,
            "room for a call again",
            seconds=5,
        )


@pytest.mark.accept("7.budgets")
@pytest.mark.accept("limits")
def test_a_spent_token_budget_stops_calls_once_it_was_counted(caller: Caller) -> None:
    agent_id = deployed(caller, SPENDING)
    caller.invoke(agent_id, "Spend it.")
    limit = caller.usage()["limits"]["tokens"]
    until(
        lambda: caller.usage()["usage"]["llmTokens"] >= limit,
        "the tokens to be counted",
        seconds=20,
    )
    until(
        lambda: caller.post_invoke(agent_id, "More.").status_code == 402,
        "calls to be refused",
        seconds=1,
    )
    refused = limit_of(caller.post_invoke(agent_id, "More."))
    assert (refused["limitType"], refused["limit"]) == ("tokens", limit)
    assert refused["current"] >= limit


@pytest.mark.accept("8.no-telemetry")
def test_calls_that_cannot_be_reported_are_counted_and_limited(
    sturdy_stack: Stack, caller: Caller
) -> None:
    """The Worker's way to the ingest edge is blocked, and its module would say that it did nothing.

    The first call is reported; then the user has three calls left.
    """
    agent_id = deployed(caller, ZEROS)
    caller.invoke(agent_id, "While it can be reported.")

    def sources() -> list[str]:
        return [event["source"] for event in caller.recent_calls()]

    until(lambda: sources() == ["both"], "the first call's reports", seconds=20)
    used = caller.usage()
    assert (used["usage"]["requests"], used["usage"]["llmTokens"]) == (1, 0)
    limit = used["limits"]["requests"]
    with psycopg.connect(sturdy_stack.status()["postgresDsn"]) as connection:
        left = "UPDATE gateway.quotas SET requests = %s WHERE user_id = %s"
        assert connection.execute(left, (limit - LEFT, caller.me()["id"])).rowcount == 1

    with sturdy_stack.frozen("telemetry-ingest"):
        for _ in range(LEFT):
            assert caller.post_invoke(agent_id, "Unreported.").status_code == 200
        for _ in range(LEFT):
            refused = limit_of(caller.post_invoke(agent_id, "One more."))
            assert (refused["limitType"], refused["limit"]) == ("requests", limit)
        until(
            lambda: sources() == ["gateway"] * LEFT + ["both"],
            "the calls to be counted by the gateways' reports",
            seconds=20,
        )
        assert caller.usage()["usage"]["requests"] == 1 + LEFT
