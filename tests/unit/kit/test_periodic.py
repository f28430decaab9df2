"""Work from time to time: again and again, whatever is away, until it fails for good."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from nats.errors import ConnectionClosedError
from webhost_kit.errors import Unavailable
from webhost_kit.periodic import every

AWAY = (
    Unavailable("the database is away"),
    ConnectionClosedError(),
    TimeoutError(),
    psycopg.errors.DeadlockDetected(),
)


def failing(*errors: Exception) -> tuple[list[Exception], Callable[[], Awaitable[None]]]:
    """Work that fails with these, one after another, and what is left of them."""
    left = list(errors)

    async def work() -> None:
        raise left.pop(0)

    return left, work


@pytest.mark.timeout(5)
async def test_what_is_away_postpones_the_work_and_everything_else_ends_it() -> None:
    left, work = failing(*AWAY, ValueError("a defect"), Unavailable("never reached"))
    with pytest.raises(ValueError, match="a defect"):
        await every(0.001, work, "test")
    assert len(left) == 1


@pytest.mark.timeout(5)
async def test_it_is_done_at_once_and_then_waits() -> None:
    done = 0

    async def work() -> None:
        nonlocal done
        done += 1

    task = asyncio.create_task(every(60, work, "test"))
    await asyncio.sleep(0.05)
    assert done == 1
    task.cancel()
