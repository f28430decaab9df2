"""Given these due agents and these in work, who gets a slot and who gives one up."""

from collections import Counter

import pytest
from webhost_deployer.queue import DueAgent, FairQueue

SLOTS = 8


def due(user: str, *numbers: int, in_work: bool = False) -> list[DueAgent]:
    return [DueAgent(user, f"{user}{number}", in_work) for number in numbers]


def own(*agents: DueAgent) -> dict[str, str]:
    return {it.agent_id: it.user_id for it in agents}


@pytest.mark.accept("6.C2.fair")
def test_everybody_gets_one_before_anybody_gets_two() -> None:
    start, stop = FairQueue(SLOTS).plan([*due("a", *range(8)), *due("b", 0), *due("c", 0, 1)], {})
    assert [it.user_id for it in start[:3]] == ["a", "b", "c"]
    assert Counter(it.user_id for it in start) == {"a": 4, "b": 1, "c": 2}
    assert not stop


def test_the_last_slot_is_for_a_user_without_one() -> None:
    queue = FairQueue(SLOTS)
    started, _ = queue.plan(due("a", *range(20)), {})
    assert len(started) == SLOTS - 1
    start, stop = queue.plan([*due("a", *range(20)), *due("b", 0)], own(*started))
    assert (start, stop) == (due("b", 0), set())


@pytest.mark.accept("6.C2.fair")
def test_one_slot_each_is_what_is_left_while_others_wait() -> None:
    busy = due("a", *range(6)) + due("b", 0, 1)
    waiting = [it for user in "cdefghijk" for it in due(user, 0)]
    start, stop = FairQueue(SLOTS).plan(waiting, own(*busy))
    assert start == []
    left = Counter(it.user_id for it in busy if it.agent_id not in stop)
    assert left == {"a": 1, "b": 1}


def test_only_as_many_are_stopped_as_users_wait() -> None:
    busy = due("a", *range(6)) + due("b", 0, 1)
    _, stop = FairQueue(SLOTS).plan([*due("c", 0), *due("b", 5)], own(*busy))
    assert len(stop) == 1
    assert stop < {it.agent_id for it in busy if it.user_id == "a"}


@pytest.mark.accept("6.C2.fair")
def test_what_other_deployers_have_in_work_counts() -> None:
    there = due("a", *range(8), in_work=True)
    queue = FairQueue(SLOTS)
    start, _ = queue.plan([*there, *due("a", 9), *due("b", 0, 1)], {})
    assert [it.agent_id for it in start] == ["b0", "b1", "a9"]


def test_users_take_turns() -> None:
    queue = FairQueue(1)
    order: list[str] = []
    for _ in range(9):
        waiting = [it for user in "abc" for it in due(user, *range(3))]
        (first,), _ = queue.plan(waiting, {})
        order.append(first.user_id)
    assert "".join(order) == "abcabcabc"
