"""Batches items that arrive together: while one batch is handled, the next one collects.

Guarantees: items are handed over in order, one batch at a time; the queue is bounded. An item
that is no longer wanted is dropped before its batch is handed over. A batch whose handling is
cancelled is queued again, in its old position.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from webhost_kit.process.metrics import ReadGauge

T = TypeVar("T")

MAX_BATCH = 500

_items_waiting = ReadGauge(
    "webhost_batcher_items_waiting",
    "What waits in memory for the next batch: calls for their admission, outcomes for their record",
    ["batcher"],
)


class Batcher(Generic[T]):
    """Hands items over in batches of at most `max_batch`.

    The first item after an idle moment waits `linger_s`, at least for one turn of the event loop,
    so that items that arrive together share a batch. `max_waiting` is None where something else
    bounds the queue. With a `name`, there is a metric of how many wait.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], Awaitable[None]],
        *,
        name: str | None = None,
        linger_s: float = 0.0,
        max_batch: int = MAX_BATCH,
        max_waiting: int | None = None,
        wanted: Callable[[T], bool] | None = None,
    ) -> None:
        self._handle = handle
        self._linger_s = linger_s
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._wanted = wanted
        self._waiting: deque[T] = deque()
        self._wake = asyncio.Event()
        self._handling = asyncio.Lock()
        if name is not None:
            _items_waiting.read(lambda: len(self._waiting), name)

    def add(self, item: T) -> None:
        """Put an item into the next batch. Raises asyncio.QueueFull."""
        if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
            raise asyncio.QueueFull
        self._waiting.append(item)
        self._wake.set()

    def put_back(self, items: Sequence[T]) -> None:
        """Queue items again, in front of all others, and beyond the bound if need be."""
        self._waiting.extendleft(reversed(items))
        self._wake.set()

    async def run(self) -> None:
        """Hand batches over until cancelled. `handle` deals with its own failures."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._linger_s)
            await self.flush()

    async def flush(self) -> None:
        """Hand over everything queued; returns when it has been handled."""
        async with self._handling:
            while batch := self._next_batch():
                try:
                    await self._handle(batch)
                except asyncio.CancelledError:
                    self.put_back(batch)
                    raise
            self._wake.clear()

    def _next_batch(self) -> list[T]:
        batch: list[T] = []
        while self._waiting and len(batch) < self._max_batch:
            item = self._waiting.popleft()
            if self._wanted is None or self._wanted(item):
                batch.append(item)
        return batch
