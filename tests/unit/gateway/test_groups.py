"""Grouping: one group under way, nothing lost when it is cut short."""

import asyncio

from webhost_gateway.groups import MOST, Groups


async def test_what_comes_while_a_group_is_under_way_shares_the_next() -> None:
    groups: list[list[int]] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def handle(group: list[int]) -> None:
        groups.append(group)
        began.set()
        await go_on.wait()

    grouped = Groups(handle)
    running = asyncio.create_task(grouped.run())
    grouped.add(1)
    grouped.add(2)
    async with asyncio.timeout(5):
        await began.wait()
        for number in range(3, 10 + MOST):
            grouped.add(number)
        go_on.set()
        await grouped.flush()
    running.cancel()
    assert [len(group) for group in groups] == [2, MOST, 7]
    assert [number for group in groups for number in group] == list(range(1, 10 + MOST))


async def test_a_group_that_was_cut_short_is_handed_over_again() -> None:
    groups: list[list[int]] = []
    began, never = asyncio.Event(), asyncio.Event()

    async def handle(group: list[int]) -> None:
        groups.append(list(group))
        began.set()
        if len(groups) == 1:
            await never.wait()

    grouped = Groups(handle)
    running = asyncio.create_task(grouped.run())
    grouped.add(1)
    async with asyncio.timeout(5):
        await began.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        grouped.add(2)
        await grouped.flush()
    assert groups == [[1], [1, 2]]
