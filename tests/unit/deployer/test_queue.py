"""Given these due agents and these in work, who gets a slot and who gives one up."""

import pytest
from webhost_deployer.queue import DueAgent, FairQueue

SLOTS = 8


def due(user: str, *numbers: int, in_work: bool = False) -> list[DueAgent]:
    return [DueAgent(user, f"{user}{number}", in_work) for number in numbers]


def own(*agents: DueAgent) -> dict[str, str]:
    return {it.agent_id: it.user_id for it in agents}


def test_who_is_alone_has_all_slots_but_the_last() -> None:
    queue = FairQueue(SLOTS)
    first, _ = queue.plan(due("a", *range(20)), {})
    assert first == due("a", *range(SLOTS - 1))
    assert queue.plan(due("a", *range(20)), own(*first)) == ([], set())
    start, stop = queue.plan([*due("a", *range(20)), *due("b", 0, 1)], own(*first))
    assert start == due("b", 0)
    assert len(stop) == SLOTS - 2


@pytest.mark.accept("6.C2.fair")
def test_while_others_have_work_each_has_one_slot() -> None:
    queue = FairQueue(SLOTS)
    everything = [*due("a", *range(8)), *due("b", 0), *due("c", 0, 1)]
    start, _ = queue.plan(everything, {})
    assert start == [*due("a", 0), *due("b", 0), *due("c", 0)]
    assert queue.plan(everything, own(*start)) == ([], set())


@pytest.mark.accept("6.C2.fair")
def test_whoever_has_more_gives_them_up_when_another_comes() -> None:
    busy = due("a", *range(6)) + due("b", 0, 1)
    waiting = [it for user in "cdefghijk" for it in due(user, 0)]
    start, stop = FairQueue(SLOTS).plan(waiting, own(*busy))
    assert start == []
    left = [it.user_id for it in busy if it.agent_id not in stop]
    assert sorted(left) == ["a", "b"]


@pytest.mark.accept("6.C2.fair")
def test_what_other_deployers_have_in_work_counts() -> None:
    there = due("a", *range(8), in_work=True)
    start, stop = FairQueue(SLOTS).plan([*there, *due("a", 9), *due("b", 0, 1)], {})
    assert (start, stop) == (due("b", 0), set())
    start, stop = FairQueue(SLOTS).plan([*there, *due("b", 0)], own(*due("a", 10)))
    assert (start, stop) == (due("b", 0), {"a10"})


@pytest.mark.accept("6.C2.fair")
def test_users_take_turns_where_they_are_more_than_the_slots() -> None:
    queue = FairQueue(1)
    order: list[str] = []
    for _ in range(9):
        waiting = [it for user in "abc" for it in due(user, *range(3))]
        (first,), _ = queue.plan(waiting, {})
        order.append(first.user_id)
    assert "".join(order) == "abcabcabc"


def test_nothing_due_is_nothing_to_do() -> None:
    assert FairQueue(SLOTS).plan([], {}) == ([], set())
