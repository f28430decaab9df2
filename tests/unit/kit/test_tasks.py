"""Tasks end when they are cancelled, even one that loses its first cancellation."""

import asyncio
from contextlib import suppress
from time import monotonic

import pytest
from webhost_kit.tasks import AGAIN_S, cancel, run_together

SOON_S = 5.0


async def lose_the_first() -> None:
    """What `asyncio.wait_for` does when its result and the cancellation come at once."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("this one")


async def test_a_task_that_lost_its_cancellation_is_cancelled_again() -> None:
    tasks = [asyncio.create_task(lose_the_first()) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(SOON_S):
        await cancel(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_what_runs_together_ends_with_the_first_of_them() -> None:
    async with asyncio.timeout(SOON_S):
        await run_together(lose_the_first(), asyncio.sleep(0))
        with pytest.raises(ValueError, match="this one"):
            await run_together(lose_the_first(), fail())


async def test_who_is_cancelled_cancels_what_it_runs() -> None:
    outer = asyncio.create_task(run_together(lose_the_first(), lose_the_first()))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(SOON_S):
        await cancel(outer)
    assert outer.cancelled()


async def test_what_is_cancelled_again_meanwhile_has_ended_what_it_ran() -> None:
    """As on a busy machine, where an end takes longer than a cancellation's repetition."""
    ended = asyncio.Event()

    async def ends_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends_at = monotonic() + 3 * AGAIN_S
            while monotonic() < ends_at:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)
            ended.set()

    running = asyncio.create_task(run_together(ends_slowly()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(SOON_S):
        await cancel(running)
    assert running.cancelled()
    assert ended.is_set()
