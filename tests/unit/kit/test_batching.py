"""Batching: one batch under way, nothing lost when it is cut short, nothing without bounds."""

import asyncio

import pytest
from webhost_kit.batching import MAX_BATCH, Batcher


async def test_what_comes_while_a_batch_is_under_way_shares_the_next() -> None:
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
        for number in range(3, 10 + MAX_BATCH):
            batched.add(number)
        go_on.set()
        await batched.flush()
    running.cancel()
    assert [len(batch) for batch in batches] == [2, MAX_BATCH, 7]
    assert [number for batch in batches for number in batch] == list(range(1, 10 + MAX_BATCH))


async def test_a_batch_that_was_cut_short_is_handed_over_again() -> None:
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
    batched.add(2)
    async with asyncio.timeout(5):
        await began.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        batched.add(3)
        await batched.flush()
    assert batches == [[1, 2], [1, 2, 3]]


async def test_a_full_queue_refuses() -> None:
    batched = Batcher[int](lambda _: asyncio.sleep(0), max_waiting=2)
    batched.add(1)
    batched.add(2)
    with pytest.raises(asyncio.QueueFull):
        batched.add(3)
    await batched.flush()
    batched.add(3)


async def test_what_is_no_longer_wanted_is_dropped_before_it_is_handed_over() -> None:
    batches: list[list[int]] = []

    async def handle(batch: list[int]) -> None:
        batches.append(batch)

    batched = Batcher(handle, max_batch=2, wanted=lambda number: number % 2 == 1)
    for number in range(8):
        batched.add(number)
    await batched.flush()
    assert batches == [[1, 3], [5, 7]]
    batched.add(8)
    await batched.flush()
    assert batches == [[1, 3], [5, 7]]
