"""Room for large request bodies while they arrive, in this process's memory.

Guarantees: what has come of all bodies that are not complete is bounded, as are those of one user;
small ones need no room. Who finds none within WAIT_S, or MOST_WAITING of the same user waiting, is
refused, and its body was not read.
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

    `refusal` is what a caller is told who finds no room.
    """

    def __init__(
        self,
        user_bytes: int = USER_BYTES,
        total_bytes: int = TOTAL_BYTES,
        refusal: str = "Too many large requests are arriving; try again shortly.",
    ) -> None:
        self._budget = ByteBudget(total_bytes, user_bytes)
        self._refusal = refusal

    @asynccontextmanager
    async def reserve(self, user_id: str, size: int) -> AsyncGenerator[None]:
        """Hold room for a body of this size, of at most a user's share. Raises Unavailable: the
        user's own fault where its other bodies take the room.
        """
        if size <= SMALL_BYTES:
            yield
            return
        if self._budget.waiting(user_id) >= MOST_WAITING:
            raise Unavailable(self._refusal, fault="others")
        try:
            async with asyncio.timeout(WAIT_S):
                await self._budget.take(user_id, size)
        except TimeoutError as error:
            own = self._budget.exceeds_share(user_id, size)
            raise Unavailable(self._refusal, fault="others" if own else "ours") from error
        try:
            yield
        finally:
            self._budget.release(user_id, size)
