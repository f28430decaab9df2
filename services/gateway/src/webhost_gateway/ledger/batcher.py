"""Batcher what is asked for at once: one batch under way, the next one collects behind it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 500
"""Items of one batch."""


class Batcher(Generic[T]):
    """Hands items over in batches, in their order, one batch at a time.

    The first item of an idle moment waits `linger_s`, at least for one turn of the event loop,
    so that what arrives together shares a batch; while a batch is under way, the next grows.
    """

    def __init__(
        self, handle: Callable[[list[T]], Awaitable[None]], *, linger_s: float = 0.0
    ) -> None:
        self._handle = handle
        self._linger_s = linger_s
        self._waiting: list[T] = []
        self._wake = asyncio.Event()
        self._handling = asyncio.Lock()

    def add(self, item: T) -> None:
        """Put an item into the next batch."""
        self._waiting.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Hand batches over for ever. `handle` deals with its own failures."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._linger_s)
            await self.flush()

    async def flush(self) -> None:
        """Hand over all that waits; returns when it has been handled."""
        async with self._handling:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    await self._handle(batch)
                except asyncio.CancelledError:
                    self._waiting[:0] = batch
                    raise
            self._wake.clear()
