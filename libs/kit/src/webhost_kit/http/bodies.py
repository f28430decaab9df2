"""Room for large request bodies while they arrive, in this process's memory.

Guarantees: what has come of all bodies that are not complete is bounded, as are those of one user;
small ones need no room. Who finds none within WAIT_S, or MOST_WAITING of the same user waiting, is
refused, and its body was not read. (What arrives while it waits, up to 64 KiB, the server keeps: so
where bodies are smaller than that, nobody waits.)
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from webhost_kit.byte_budget import ByteBudget
from webhost_kit.errors import Unavailable

SMALL_BYTES = 64 * 1024
TOTAL_BYTES = 32 * 1024 * 1024
USER_BYTES = 8 * 1024 * 1024
MOST_WAITING = 64
WAIT_S = 5.0


class Bodies:
    """The bodies that this process holds; of one user at most `user_bytes`.

    `refusal` is what a caller is told who finds no room; unless they are to wait, they are told at
    once. A body of up to `small_bytes` needs none.
    """

    def __init__(
        self,
        user_bytes: int = USER_BYTES,
        total_bytes: int = TOTAL_BYTES,
        refusal: str = "Too many large requests are arriving; try again shortly.",
        *,
        small_bytes: int = SMALL_BYTES,
        waits: bool = True,
    ) -> None:
        self._budget = ByteBudget(total_bytes, user_bytes)
        self._refusal = refusal
        self._small_bytes = small_bytes
        self._waits = waits

    @asynccontextmanager
    async def reserve(self, user_id: str, size: int) -> AsyncGenerator[None]:
        """Hold room for a body of this size, of at most a user's share. Raises Unavailable: the
        user's own fault where its other bodies take the room.
        """
        if size <= self._small_bytes:
            yield
            return
        await self._take(user_id, size)
        try:
            yield
        finally:
            self._budget.release(user_id, size)

    async def _take(self, user_id: str, size: int) -> None:
        if not self._waits:
            if not self._budget.take_now(user_id, size):
                raise self._refused(user_id, size)
            return
        if self._budget.waiting(user_id) >= MOST_WAITING:
            raise Unavailable(self._refusal, fault="others")
        try:
            async with asyncio.timeout(WAIT_S):
                await self._budget.take(user_id, size)
        except TimeoutError as error:
            raise self._refused(user_id, size) from error

    def _refused(self, user_id: str, size: int) -> Unavailable:
        own = self._budget.exceeds_share(user_id, size)
        return Unavailable(self._refusal, fault="others" if own else "ours")
