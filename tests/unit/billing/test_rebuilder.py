"""A rebuild is not silent, however long one of its steps takes."""

import asyncio
from typing import Any

import pytest
from webhost_billing.rebuild import rebuilder
from webhost_billing.rebuild.rebuilder import Rebuilder, repeating
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest
from webhost_kit.tasks import cancel


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[RebuildProgress]":
    monkeypatch.setattr(rebuilder, "REPEAT_S", 0.001)
    return asyncio.Queue()


async def test_who_waits_for_a_rebuild_hears_of_it(lines: "asyncio.Queue[RebuildProgress]") -> None:
    nothing: Any = None
    waits = Rebuilder(nothing, nothing, nothing, nothing, nothing).rebuild
    # What another one has left is not removed yet.
    task = asyncio.create_task(waits(RebuildRequest(), lines.put))
    async with asyncio.timeout(5):
        for _ in range(3):
            assert await lines.get() == RebuildProgress(processed=0, total=0)
    await cancel(task)


async def test_the_last_line_is_repeated(lines: "asyncio.Queue[RebuildProgress]") -> None:
    async with repeating(lines.put) as send, asyncio.timeout(5):
        await send(RebuildProgress(processed=5, total=9, resumed=5))
        while (await lines.get()).resumed == 0:
            pass
        # Resumed once, however often that is said.
        for _ in range(3):
            assert await lines.get() == RebuildProgress(processed=5, total=9)
