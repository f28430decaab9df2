"""Who gets how much of a budget of bytes, and in which order."""

import asyncio

import pytest
from webhost_kit.byte_budget import ByteBudget


async def waiting(budget: ByteBudget, user_id: str, size: int) -> asyncio.Task[None]:
    task = asyncio.create_task(budget.take(user_id, size))
    await asyncio.sleep(0)
    return task


async def granted(*tasks: asyncio.Task[None]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_no_more_than_there_is_is_taken_in_the_order_of_arrival() -> None:
    budget = ByteBudget(total=10, share=10)
    await budget.take("a", 8)
    large = await waiting(budget, "b", 5)
    small = await waiting(budget, "c", 1)
    assert await granted(large, small) == [False, False]
    budget.release("a", 8)
    assert await granted(large, small) == [True, True]
    assert budget.taken == 6


async def test_one_user_has_no_more_than_its_share_and_nobody_waits_for_it() -> None:
    budget = ByteBudget(total=10, share=4)
    await budget.take("a", 4)
    own = await waiting(budget, "a", 1)
    await budget.take("b", 4)
    assert await granted(own) == [False]
    assert (budget.waiting("a"), budget.waiting("b")) == (1, 0)
    budget.release("a", 4)
    assert await granted(own) == [True]
    assert budget.taken == 5


async def test_whoever_stops_waiting_leaves_nothing_behind() -> None:
    budget = ByteBudget(total=10, share=10)
    await budget.take("a", 8)
    gives_up = await waiting(budget, "b", 5)
    behind = await waiting(budget, "c", 2)
    gives_up.cancel()
    assert await granted(gives_up, behind) == [True, True]
    assert budget.taken == 10
    # Cancelled in the same moment in which it is granted.
    late = await waiting(budget, "b", 8)
    budget.release("a", 8)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert budget.taken == 2
    budget.release("c", 2)
    assert budget.taken == 0


async def test_whoever_gives_up_in_the_moment_of_a_release_takes_nothing_with_it() -> None:
    budget = ByteBudget(total=10, share=10)
    await budget.take("a", 10)
    first, second = await waiting(budget, "b", 4), await waiting(budget, "c", 4)
    # Their cancellation is under way, and neither of them has had its turn yet.
    first.cancel()
    second.cancel()
    budget.release("a", 10)
    await budget.take("d", 6)
    assert await granted(first, second) == [True, True]
    assert first.cancelled()
    assert second.cancelled()
    assert budget.taken == 6
    budget.release("d", 6)
    await budget.take("a", 10)


async def test_what_is_not_free_now_can_be_left() -> None:
    budget = ByteBudget(total=10, share=6)
    assert budget.take_now("a", 6)
    assert not budget.take_now("a", 1)
    assert not budget.take_now("b", 5)
    assert budget.take_now("b", 3)
    waits = await waiting(budget, "c", 4)
    assert not budget.take_now("b", 1)
    budget.release("a", 6)
    assert await granted(waits) == [True]
    assert budget.taken == 7
