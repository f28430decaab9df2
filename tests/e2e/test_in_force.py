"""A change is in force at two gateways within 250 ms, and none of them goes back behind it.

Times are from just before the request, by calling the agent at both gateways over and over: so
the time of one call, which is some milliseconds, is in each. `make bench` has the same figures with
nothing else on the machine, and what they are made of.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import httpx
import nats
import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.bus_urls import servers_of
from webhost_contracts.rpc import AccountStatus, SetAccountStatusReply, SetAccountStatusRequest

from tests.e2e.world import FIRST, SECOND, answering
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack

CHANGES = 200
WITHIN_MS = 250
LATEST_S = 10.0
EXPIRING = 50
GOOD_FOR_MS = 1_000
"""How many keys expire, and how long after they were asked for."""
REFUSED = "401"

pytestmark = [
    pytest.mark.long,
    pytest.mark.quiet,
    pytest.mark.timeout(900),
    pytest.mark.accept("7.in-force"),
]


@dataclass
class Watch:
    """Calls an agent at one gateway over and over, and remembers each new answer and when it came.

    An answer's key is its status, with the text where it is 200.
    """

    caller: Caller
    agent_id: str
    answers: list[tuple[float, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            key = self.answer()
            if not self.answers or self.answers[-1][1] != key:
                self.answers.append((time.perf_counter(), key))

    def answer(self) -> str:
        return _key(self.caller.post_invoke(self.agent_id, "Who is it?"))

    def until_says(self, key: str) -> float:
        """Return when the gateway's latest answer became this one."""
        deadline = time.perf_counter() + LATEST_S
        while not self.answers or self.answers[-1][1] != key:
            assert time.perf_counter() < deadline, (key, self.answers[-3:])
            time.sleep(0.0005)
        return self.answers[-1][0]


def _key(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        return answer.json()["output"]["text"]
    assert answer.status_code in (401, 403, 404), answer.text
    return str(answer.status_code)


class Watched:
    """The watches of one agent at every gateway; a block that they run in."""

    def __init__(self, stack: Stack, caller: Caller, agent_id: str) -> None:
        # One connection each, past the balancing of the origin.
        self._watches = [Watch(each, agent_id) for each in stack.at_each_gateway(caller)]
        self._threads = [threading.Thread(target=watch.run) for watch in self._watches]
        assert len(self._watches) == 2

    def __enter__(self) -> "Watched":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.ended.set()
        for thread in self._threads:
            thread.join()

    def in_force(self, change: Callable[[], Any], key: str) -> float:
        """Make the change; return the milliseconds until every gateway answers by it."""
        began = time.perf_counter()
        change()
        return (max(watch.until_says(key) for watch in self._watches) - began) * 1000

    def said(self) -> list[list[str]]:
        """Each gateway's answers in order, the same one not twice in a row."""
        return [[key for _, key in watch.answers] for watch in self._watches]

    def answers_now(self) -> list[str]:
        """Each gateway's answer now."""
        return [watch.answer() for watch in self._watches]


@pytest.fixture
def caller(sturdy_stack: Stack) -> Caller:
    return sturdy_stack.unlimited_caller()


@pytest.fixture
def agent_id(caller: Caller) -> str:
    agent_id = caller.create_agent()["id"]
    caller.deploy(agent_id, moduleCode=answering(FIRST))
    caller.invoke(agent_id, "Hello")
    return agent_id


def post(caller: Caller, path: str, **body: Any) -> dict[str, Any]:
    while (answer := caller.http.post(path, json=body or None)).status_code == 429:
        time.sleep(int(answer.headers["Retry-After"]))
    assert answer.is_success, answer.text
    return answer.json()


def check(name: str, times: list[float]) -> None:
    p99 = quantiles(times, n=100, method="inclusive")[98]
    print(f"{name}: p50 {median(times):.0f} ms, p99 {p99:.0f} ms of {len(times)}")
    assert p99 <= WITHIN_MS


def test_activation(sturdy_stack: Stack, caller: Caller) -> None:
    agent_id = caller.create_agent()["id"]
    choices = [
        (caller.deploy(agent_id, moduleCode=answering(text))["id"], text)
        for text in (FIRST, SECOND)
    ]
    caller.invoke(agent_id, "Hello")
    expected: list[str] = [SECOND]
    times: list[float] = []
    with Watched(sturdy_stack, caller, agent_id) as watched:
        watched.in_force(lambda: None, SECOND)
        for number in range(CHANGES):
            deployment_id, text = choices[number % 2]
            path = f"/v1/agents/{agent_id}/deployments/{deployment_id}/activate"
            times.append(watched.in_force(lambda path=path: post(caller, path), text))
            expected.append(text)
    # Each answer once and in order: none was given again after a newer one.
    assert watched.said() == [expected, expected]
    check("activation", times)


def test_disable_and_enable(sturdy_stack: Stack, caller: Caller, agent_id: str) -> None:
    expected: list[str] = [FIRST]
    times: list[float] = []
    with Watched(sturdy_stack, caller, agent_id) as watched:
        watched.in_force(lambda: None, FIRST)
        for _ in range(CHANGES):
            path = f"/v1/agents/{agent_id}"
            disable = watched.in_force(lambda path=path: post(caller, f"{path}/disable"), "403")
            times.append(disable)
            watched.in_force(lambda path=path: post(caller, f"{path}/enable"), FIRST)
            expected += ["403", FIRST]
    assert watched.said() == [expected, expected]
    check("disable", times)


def test_delete(sturdy_stack: Stack, caller: Caller) -> None:
    times: list[float] = []
    for _ in range(CHANGES):
        # Without a deployment it cannot be called: an agent that is disabled says that it is there.
        agent_id = caller.create_agent("short-lived")["id"]
        post(caller, f"/v1/agents/{agent_id}/disable")
        path = f"/v1/agents/{agent_id}"
        for each in sturdy_stack.at_each_gateway(caller):
            until(
                lambda each=each, agent_id=agent_id: (
                    each.post_invoke(agent_id, "Hello").status_code == 403
                ),
                "the agent to be known",
            )
        with Watched(sturdy_stack, caller, agent_id) as watched:
            watched.in_force(lambda: None, "403")
            times.append(watched.in_force(lambda path=path: caller.http.delete(path), "404"))
        assert watched.said() == [["403", "404"]] * 2
    check("delete", times)


def test_disabling_an_account(sturdy_stack: Stack, caller: Caller, agent_id: str) -> None:
    user_id, url = caller.me()["id"], sturdy_stack.status()["natsUrl"]

    def put(status: AccountStatus) -> None:
        request = SetAccountStatusRequest(user_id=user_id, status=status, operator="test")
        reply = asyncio.run(_asked(url, request))
        assert reply == SetAccountStatusReply(status=status)

    expected: list[str] = [FIRST]
    times: list[float] = []
    with Watched(sturdy_stack, caller, agent_id) as watched:
        watched.in_force(lambda: None, FIRST)
        for _ in range(CHANGES):
            times.append(watched.in_force(lambda: put("disabled"), "403"))
            watched.in_force(lambda: put("enabled"), FIRST)
            expected += ["403", FIRST]
    assert watched.said() == [expected, expected]
    check("account disabled", times)


def end_keys(
    stack: Stack, agent_id: str, tokens: Iterable[str], end: Callable[[str], Any]
) -> list[float]:
    """Watch an agent with one key after another and end each; return how long each end took.

    At no gateway a key is good again once it was refused, also not after all of them.
    """
    times: list[float] = []
    ended: list[Watched] = []
    for token in tokens:
        with Watched(stack, stack.caller_with(token), agent_id) as watched:
            watched.in_force(lambda: None, FIRST)
            times.append(watched.in_force(lambda token=token: end(token), REFUSED))
        # Refused at first, perhaps, where the key was not known yet.
        assert [said[-2:] for said in watched.said()] == [[FIRST, REFUSED]] * 2
        assert all(said.count(FIRST) == 1 for said in watched.said())
        ended.append(watched)
    assert {key for watched in ended for key in watched.answers_now()} == {REFUSED}
    return times


def make_key(caller: Caller, **fields: Any) -> dict[str, Any]:
    return post(caller, "/v1/keys", name="short-lived", scopes=["invoke"], **fields)


def test_revoking_a_key(sturdy_stack: Stack, caller: Caller, agent_id: str) -> None:
    paths: dict[str, str] = {}

    def tokens() -> Iterator[str]:
        for _ in range(CHANGES):
            made = make_key(caller)
            paths[made["token"]] = f"/v1/keys/{made['key']['id']}"
            yield made["token"]

    def revoke(token: str) -> None:
        assert caller.http.delete(paths[token]).status_code == 204

    check("key revoked", end_keys(sturdy_stack, agent_id, tokens(), revoke))


def test_rotating_a_key_without_overlap(sturdy_stack: Stack, caller: Caller, agent_id: str) -> None:
    made = make_key(caller)
    path = f"/v1/keys/{made['key']['id']}/rotate"
    issued = [made["token"]]

    def rotate(_: str) -> None:
        issued.append(post(caller, path, overlapSeconds=0)["token"])

    tokens = (issued[-1] for _ in range(CHANGES))
    check("key rotated", end_keys(sturdy_stack, agent_id, tokens, rotate))


def test_a_key_expires(sturdy_stack: Stack, caller: Caller, agent_id: str) -> None:
    """At the instant that it names, and not before."""
    expires_at_ms: list[int] = []
    left_ms: list[float] = []

    def tokens() -> Iterator[str]:
        for _ in range(EXPIRING):
            expires_at_ms.append(int(time.time() * 1000) + GOOD_FOR_MS)
            yield make_key(caller, expiresAtMs=expires_at_ms[-1])["token"]

    def wait(_: str) -> None:
        left_ms.append(expires_at_ms[-1] - time.time() * 1000)

    ends = end_keys(sturdy_stack, agent_id, tokens(), wait)
    times = [end - left for end, left in zip(ends, left_ms, strict=True)]
    assert min(times) >= -1
    check("key expired", times)


async def _asked(url: str, request: SetAccountStatusRequest) -> SetAccountStatusReply:
    client = await nats.connect(servers_of(url))
    try:
        reply = await client.request(
            subjects.RPC_SET_ACCOUNT_STATUS, wire.encode(request), timeout=5
        )
        return wire.decode(reply.data, SetAccountStatusReply)
    finally:
        await client.close()
