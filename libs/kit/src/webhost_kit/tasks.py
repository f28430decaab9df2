"""Tasks that reliably end when cancelled.

A cancellation can be lost: `asyncio.wait_for` of Python 3.11, which nats-py uses, returns its
result instead when both come at once, as they do when a frozen process wakes. Waiting for a task
that was cancelled only once may never end; a TaskGroup cancels only once.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

AGAIN_S = 0.5


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Return when these have ended, in whatever way; each is cancelled until it has.

    Whoever waits here may be cancelled again and again too: that is passed on behind their end.
    """
    waiting = {task for task in tasks if not task.done()}
    interrupted: asyncio.CancelledError | None = None
    while waiting:
        for task in waiting:
            task.cancel()
        try:
            await asyncio.wait(waiting, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            interrupted = error
        waiting = {task for task in waiting if not task.done()}
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if interrupted is not None:
        raise interrupted


async def run_together(*work: Coroutine[Any, Any, Any]) -> None:
    """Run these side by side until one ends, and end the others then. Raises what one raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(*tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
