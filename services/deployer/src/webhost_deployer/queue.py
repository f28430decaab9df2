"""Who gets a free slot next, and who gives one up. Pure.

The users take turns: a slot goes to the user with the fewest agents in work, at whichever deployer,
and of these to the one whose last turn here is the longest ago. Nobody takes the last slot of a
process who has one already, and while somebody waits who has none, whoever has the most gives one
up at the end of the step. So one slot each is all that is left while others wait.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

REMEMBERED_TURNS = 10_000


class DueAgent(NamedTuple):
    """An agent with due work; `in_work` says whether a deployer is at it."""

    user_id: str
    agent_id: str
    in_work: bool


class FairQueue:
    """The turns of one process's `slots`."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._turns: dict[str, int] = {}
        self._turn = 0

    def plan(
        self, due: Sequence[DueAgent], own: Mapping[str, str]
    ) -> tuple[list[DueAgent], set[str]]:
        """Return the agents to start, and those of `own` to stop at the end of their step.

        `own` are the agents that this process is at, with their users. `due` is in each user's
        order, the longest waiting first.
        """
        in_work = Counter(own.values())
        in_work.update(it.user_id for it in due if it.in_work and it.agent_id not in own)
        waiting: dict[str, list[DueAgent]] = {}
        for it in due:
            if not it.in_work and it.agent_id not in own:
                waiting.setdefault(it.user_id, []).append(it)
        free = self._slots - len(own)
        start: list[DueAgent] = []
        while waiting and free > 0:
            user = min(waiting, key=lambda it: (in_work[it], self._turns.get(it, 0)))
            if free == 1 and in_work[user]:
                break
            start.append(waiting[user].pop(0))
            if not waiting[user]:
                del waiting[user]
            in_work[user] += 1
            free -= 1
            self._took_turn(user)
        without = sum(1 for user in waiting if not in_work[user])
        return start, _given_up(own, in_work, without)

    def _took_turn(self, user_id: str) -> None:
        self._turn += 1
        self._turns.pop(user_id, None)
        self._turns[user_id] = self._turn
        if len(self._turns) > REMEMBERED_TURNS:
            del self._turns[next(iter(self._turns))]


def _given_up(own: Mapping[str, str], in_work: Counter[str], count: int) -> set[str]:
    """Return up to `count` of our agents, each time one of the user who has the most in work."""
    left = Counter(in_work)
    given: set[str] = set()
    for _ in range(count):
        candidates = [agent for agent, user in own.items() if left[user] > 1 and agent not in given]
        if not candidates:
            break
        agent = max(candidates, key=lambda it: left[own[it]])
        given.add(agent)
        left[own[agent]] -= 1
    return given
