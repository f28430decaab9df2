"""One account takes all that it can. Another one's deploys end within twice their usual time, its
calls keep their latency within half as much again, and no process of ours grows.
"""

import multiprocessing
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median

import httpx
import msgspec
import pytest
from webhost_kit.clock import now_ms

from tests.support.deadline import until
from tests.support.keys import StackKeys
from tests.support.slow import resident_mb
from tests.support.stack import Stack, running_stack

ROUNDS = 7
AGENTS = 10
"""More than the deployer has slots."""
PAUSE_S = 0.2
"""Between two deploys on one connection; the api's rate limit leaves fewer."""
REPORT_PAUSE_S = 0.02
"""Between two reports on one connection: without, the flood itself takes the processors."""
CALLS = 25
MOST_MB = 200
OURS = ("edge", "api", "gateway", "deployer", "telemetry-ingest", "billing")
# What a probe asks of the script is never answered.
SILENT = """
import * as wrapper from "./webhost-agent.mjs";
queueMicrotask(() => { wrapper.default.prototype.isCallable = () => new Promise(() => {}); });
export default { async invoke() { return "hi"; } };
"""
CODE = "export default {{ async invoke() {{ return 'number {}'; }} }};"

Attack = Callable[[], int]
"""Does one thing on a connection of its own, and returns how many were accepted."""


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack of its own: what is left of an attack would slow down other tests."""
    with running_stack() as running:
        yield running


def deploys(stack: Stack) -> list[Attack]:
    """Deploy each of many agents again as soon as that is possible, on four connections."""
    attacker = stack.unlimited_caller()
    agents = [attacker.create_agent(f"a{number}")["id"] for number in range(AGENTS)]

    def attack_of(number: int) -> Attack:
        caller, turn = stack.caller_with(attacker.token), iter(range(1_000_000))

        def attack() -> int:
            agent_id = agents[(4 * next(turn) + number) % AGENTS]
            fields = {"moduleCode": CODE.format(number)}
            answer = caller.http.post(f"/v1/agents/{agent_id}/deploy", json=fields)
            assert answer.status_code in (202, 409, 429), answer.text
            time.sleep(PAUSE_S)
            return int(answer.status_code == 202)

        return attack

    return [attack_of(number) for number in range(4)]


def reports(stack: Stack) -> list[Attack]:
    """Report usage with a stolen key, on four connections."""
    attacker = stack.caller()
    deployment = attacker.deploy(attacker.create_agent()["id"])
    keys, url = StackKeys(stack), f"{stack.origin}/v1/telemetry/report"
    event = {
        "userId": attacker.me()["id"],
        "agentId": deployment["agentId"],
        "deploymentId": deployment["id"],
        "runtimeProvider": "cloudflare",
        "requests": 1,
        "llmTokens": 1,
        "computeMs": 1,
        "errors": 0,
    }

    def attack_of(http: httpx.Client) -> Attack:
        def attack() -> int:
            its = {"eventId": secrets.token_hex(8), "timestampMs": now_ms()}
            body = msgspec.json.encode(event | its)
            answer = http.post(
                url, content=body, headers=keys.report_headers(deployment["id"], body)
            )
            assert answer.status_code in (202, 429), answer.text
            time.sleep(REPORT_PAUSE_S)
            return int(answer.status_code == 202)

        return attack

    return [attack_of(stack.caller().http) for _ in range(4)]


def probes(stack: Stack) -> list[Attack]:
    """Deploy what never answers its probe, again and again, on three connections."""
    attacker = stack.caller()
    agents = [attacker.create_agent(f"p{number}")["id"] for number in range(3)]

    def attack_of(agent_id: str) -> Attack:
        caller = stack.caller_with(attacker.token)

        def attack() -> int:
            answer = caller.http.post(f"/v1/agents/{agent_id}/deploy", json={"moduleCode": SILENT})
            assert answer.status_code in (202, 409, 429), answer.text
            time.sleep(PAUSE_S)
            return int(answer.status_code == 202)

        return attack

    return [attack_of(agent_id) for agent_id in agents]


def creations(stack: Stack) -> list[Attack]:
    """Create an agent and delete it, in a loop."""
    attacker, numbers = stack.unlimited_caller(), count()

    def attack() -> int:
        answer = attacker.http.post("/v1/agents", json={"name": f"a{next(numbers)}"})
        if answer.status_code == 429:
            time.sleep(PAUSE_S)
            return 0
        assert answer.status_code == 201, answer.text
        deleted = attacker.http.delete(f"/v1/agents/{answer.json()['agent']['id']}")
        assert deleted.status_code in (200, 429), deleted.text
        return 1

    return [attack]


class Attackers:
    """A process for each attack; they rest until they are let loose.

    Threads would take turns with what is measured: that is Python's time, not the platform's.
    """

    def __init__(self, attacks: list[Attack]) -> None:
        fork = multiprocessing.get_context("fork")
        self._accepted, self._refused = fork.Value("q"), fork.Value("q")
        self._loose, self._ended = fork.Event(), fork.Event()
        self._processes = [
            fork.Process(target=self._loop, args=(it,), daemon=True) for it in attacks
        ]
        for process in self._processes:
            process.start()

    @contextmanager
    def loose(self) -> Iterator[None]:
        """They attack during the block, and have begun when it begins."""
        before = self._accepted.value + self._refused.value
        self._loose.set()
        try:
            until(
                lambda: self._accepted.value + self._refused.value > before,
                "the attack to be under way",
                seconds=30,
            )
            yield
        finally:
            self._loose.clear()

    def spend_burst(self) -> None:
        """Attack until something is refused: from then on only the rate passes."""
        before = self._refused.value
        self._loose.set()
        until(lambda: self._refused.value > before, "the attack to be refused", seconds=120)
        self._loose.clear()

    def end(self) -> None:
        self._ended.set()
        self._loose.set()
        for process in self._processes:
            process.join()
        assert [process.exitcode for process in self._processes] == [0] * len(self._processes)

    def _loop(self, attack: Attack) -> None:
        while self._loose.wait() and not self._ended.is_set():
            count = self._accepted if attack() else self._refused
            with count.get_lock():
                count.value += 1


class Victim:
    """A user with an agent that is deployed again and again, and called."""

    def __init__(self, stack: Stack) -> None:
        self.caller = stack.caller()
        self.agent_id: str = self.caller.create_agent()["id"]
        self._deploys = count()
        self.deploy_s()  # the session Worker is there now

    def deploy_s(self) -> float:
        """Seconds from the request to a deployment that answers."""
        began = time.monotonic()
        self.caller.deploy(self.agent_id, moduleCode=CODE.format(next(self._deploys)))
        return time.monotonic() - began

    def latency_ms(self) -> float:
        """The median of some calls, one after the other."""
        self.caller.invoke(self.agent_id, "hi")
        took: list[float] = []
        for _ in range(CALLS):
            began = time.perf_counter()
            assert self.caller.post_invoke(self.agent_id, "hi").status_code == 200
            took.append((time.perf_counter() - began) * 1000)
        return median(took)


@pytest.mark.long
@pytest.mark.quiet
@pytest.mark.timeout(420)
@pytest.mark.accept("6.shares.deploys")
@pytest.mark.parametrize(
    ("attacks_of", "has_burst"),
    [(deploys, True), (creations, False), (reports, True), (probes, True)],
)
def test_anothers_deploys_and_calls_keep_their_time(
    own_stack: Stack, attacks_of: Callable[[Stack], list[Attack]], has_burst: bool
) -> None:
    """Measured in turns, with the attack and without, since the machine has other work too.

    What an account may do in a burst would take both processors of a small machine for itself.
    """
    victim = Victim(own_stack)
    attackers = Attackers(attacks_of(own_stack))
    usual: list[tuple[float, float]] = []
    attacked: list[tuple[float, float]] = []
    try:
        if not has_burst:
            attackers.spend_burst()
        for _ in range(ROUNDS):
            usual.append((victim.deploy_s(), victim.latency_ms()))
            with attackers.loose():
                attacked.append((victim.deploy_s(), victim.latency_ms()))
            if attacks_of is deploys:
                own_stack.until_deployer_rests()
            else:  # these deploys come faster than Cloudflare's API would let them
                own_stack.until_calls_are_left()
    finally:
        attackers.end()
    sizes = {name: resident_mb(pid) for name, pid in own_stack.pids().items() if name in OURS}
    deploy_s, latency_ms = (
        tuple(median(each[index] for each in times) for times in (usual, attacked))
        for index in range(2)
    )
    print(f"\n{attacks_of.__name__}: deploys {deploy_s} s, calls {latency_ms} ms, {sizes}")
    assert deploy_s[1] <= 2 * deploy_s[0], (usual, attacked)
    assert latency_ms[1] <= 1.5 * latency_ms[0], (usual, attacked)
    assert {name: mb for name, mb in sizes.items() if mb > MOST_MB} == {}
