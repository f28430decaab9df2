"""One account takes all that it can; another one's deploys end within twice their usual time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median

import pytest

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack, running_stack

ROUNDS = 7
AGENTS = 10
"""More than the deployer has slots."""
PAUSE_S = 0.2
"""Between two deploys on one connection; the api's rate limit leaves fewer."""
CODE = "export default {{ async invoke() {{ return 'number {}'; }} }};"

Attack = Callable[[], int]
"""Does one thing on a connection of its own, and returns how many were accepted."""


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack of its own: what is left of an attack would slow down other tests."""
    with running_stack() as running:
        yield running


def unlimited(stack: Stack) -> Caller:
    """A user whose tier refuses nothing: what holds is the deployer's fairness alone."""
    caller = stack.caller()
    stack.webhost("users", "set-tier", caller.me()["id"], "enterprise")
    until(lambda: caller.me()["tier"] == "enterprise", "the tier to be in force")
    return caller


def deploys(stack: Stack) -> list[Attack]:
    """Deploy each of many agents again as soon as that is possible, on four connections."""
    attacker = unlimited(stack)
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


def creations(stack: Stack) -> list[Attack]:
    """Create an agent and delete it, in a loop."""
    attacker, numbers = unlimited(stack), count()

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
    """A thread for each attack; they rest until they are let loose."""

    def __init__(self, attacks: list[Attack]) -> None:
        self.accepted, self.refused = 0, 0
        self._counting = threading.Lock()
        self._loose, self._ended = threading.Event(), threading.Event()
        self._failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._loop, args=(it,)) for it in attacks]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def loose(self) -> Iterator[None]:
        """They attack during the block, and have begun when it begins."""
        before = self.accepted
        self._loose.set()
        try:
            until(lambda: self.accepted >= before + 5, "the attack to be under way", seconds=30)
            yield
        finally:
            self._loose.clear()

    def spend_burst(self) -> None:
        """Attack until something is refused: from then on only the rate passes."""
        before = self.refused
        self._loose.set()
        until(lambda: self.refused > before, "the attack to be refused", seconds=120)
        self._loose.clear()

    def end(self) -> None:
        self._ended.set()
        self._loose.set()
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures

    def _loop(self, attack: Attack) -> None:
        try:
            while self._loose.wait() and not self._ended.is_set():
                accepted = attack()
                with self._counting:
                    self.accepted += accepted
                    self.refused += not accepted
        except Exception as error:
            self._failures.append(error)


def seconds_to_deploy(caller: Caller, agent_id: str, number: int) -> float:
    """Seconds from the request to a deployment that answers."""
    began = time.monotonic()
    caller.deploy(agent_id, moduleCode=CODE.format(number))
    return time.monotonic() - began


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.accept("6.shares.deploys")
@pytest.mark.parametrize(("attacks_of", "has_burst"), [(deploys, True), (creations, False)])
def test_anothers_deploy_ends_within_twice_its_usual_time(
    own_stack: Stack, attacks_of: Callable[[Stack], list[Attack]], has_burst: bool
) -> None:
    """Measured in turns, with the attack and without, since the machine has other work too.

    What an account may do in a burst would take both processors of a small machine for itself.
    """
    victim = own_stack.caller()
    agent = victim.create_agent()["id"]
    victim.deploy(agent)  # the session Worker is there now
    attackers = Attackers(attacks_of(own_stack))
    usual: list[float] = []
    attacked: list[float] = []
    try:
        if not has_burst:
            attackers.spend_burst()
        for number in range(ROUNDS):
            usual.append(seconds_to_deploy(victim, agent, number))
            with attackers.loose():
                attacked.append(seconds_to_deploy(victim, agent, ROUNDS + number))
            own_stack.until_deployer_rests()
    finally:
        attackers.end()
    print(f"\nusual {usual}\nattacked {attacked}\naccepted {attackers.accepted}")
    assert median(attacked) <= 2 * median(usual), (usual, attacked)
