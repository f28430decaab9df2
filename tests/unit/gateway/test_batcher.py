"""Grouping: one batch under way, nothing lost when it is cut short."""

import asyncio

from webhost_gateway.ledger.batcher import MOST, Batcher


async def test_what_comes_while_a_group_is_under_way_shares_the_next() -> None:
    batches: list[list[int]] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def handle(batch: list[int]) -> None:
        batches.append(batch)
        began.set()
        await go_on.wait()

    batched = Batcher(handle)
    running = asyncio.create_task(batched.run())
    batched.add(1)
    batched.add(2)
    async with asyncio.timeout(5):
        await began.wait()
        for number in range(3, 10 + MOST):
            batched.add(number)
        go_on.set()
        await batched.flush()
    running.cancel()
    assert [len(batch) for batch in batches] == [2, MOST, 7]
    assert [number for batch in batches for number in batch] == list(range(1, 10 + MOST))


async def test_a_group_that_was_cut_short_is_handed_over_again() -> None:
    batches: list[list[int]] = []
    began, never = asyncio.Event(), asyncio.Event()

    async def handle(batch: list[int]) -> None:
        batches.append(list(batch))
        began.set()
        if len(batches) == 1:
            await never.wait()

    batched = Batcher(handle)
    running = asyncio.create_task(batched.run())
    batched.add(1)
    async with asyncio.timeout(5):
        await began.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        batched.add(2)
        await batched.flush()
    assert batches == [[1], [1, 2]]
