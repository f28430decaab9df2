"""Waiting in tests: for a condition, with a deadline, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def until(condition: Callable[[], bool], what: str, *, seconds: float = 10.0) -> None:
    """Return when `condition` holds; fail, naming `what`, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 10.0
) -> None:
    """As `until`, for an asynchronous condition."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        await asyncio.sleep(0.02)
