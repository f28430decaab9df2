"""Who gets a free slot next, and who gives one up. No I/O.

While more than one user has work, each has one slot, over all deployers: whoever has more gives
them up at the end of a step, so that nobody's deployment is slower for how much another deploys.
Where there are more users than slots they take turns: a slot goes to the one whose last turn here
is the longest ago. A user who is alone has all slots of a process but the last, which the next one
finds free.
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
        if len(in_work.keys() | waiting.keys()) == 1:
            return self._for_one_user(*waiting.values(), free=free), set()
        without = sorted(
            (user for user in waiting if not in_work[user]), key=lambda it: self._turns.get(it, 0)
        )
        start = [waiting[user][0] for user in without[:free]]
        for it in start:
            self._took_turn(it.user_id)
        return start, _given_up(own, in_work)

    def _for_one_user(self, waiting: Sequence[DueAgent] = (), *, free: int) -> list[DueAgent]:
        return list(waiting[: max(0, free - 1)])

    def _took_turn(self, user_id: str) -> None:
        self._turn += 1
        self._turns.pop(user_id, None)
        self._turns[user_id] = self._turn
        if len(self._turns) > REMEMBERED_TURNS:
            del self._turns[next(iter(self._turns))]


def _given_up(own: Mapping[str, str], in_work: Counter[str]) -> set[str]:
    """Return all of our agents but one of each user's, where no other deployer is at another."""
    left = Counter(in_work)
    given: set[str] = set()
    for agent, user in own.items():
        if left[user] > 1:
            given.add(agent)
            left[user] -= 1
    return given
