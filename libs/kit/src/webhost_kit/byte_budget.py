"""A bound on the bytes that one process holds for its callers at a time, shared among them.

Guarantees: at most `total` bytes are taken at once, at most `share` of them by one user. Who waits
is served in the order of arrival, and nobody waits for another user's share.
"""

import asyncio
from collections import Counter


class ByteBudget:
    """Bytes to take and to release. What one taking asks for must be within the share."""

    def __init__(self, total: int, share: int) -> None:
        self._free = total
        self._share = share
        self._taken: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}

    @property
    def taken(self) -> int:
        """Bytes that are taken now, by all users."""
        return self._taken.total()

    def waiting(self, user_id: str) -> int:
        """Return how many of this user's wait."""
        return sum(waits == user_id for waits, _ in self._waiting.values())

    def exceeds_share(self, user_id: str, size: int) -> bool:
        """Say whether so many bytes more would be over this user's share now."""
        return self._taken[user_id] + size > self._share

    async def take(self, user_id: str, size: int) -> None:
        """Return once this user has so many bytes more. A wait can be cancelled."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[granted] = (user_id, size)
        self._serve()
        if granted.done():
            return
        try:
            await granted
        except asyncio.CancelledError:
            if self._waiting.pop(granted, None) is None:
                self.release(user_id, size)
            else:
                self._serve()
            raise

    def take_now(self, user_id: str, size: int) -> bool:
        """Take so many bytes if they are free and nobody waits for any; say whether."""
        if self._waiting or size > self._free or self.exceeds_share(user_id, size):
            return False
        self._free -= size
        self._taken[user_id] += size
        return True

    def release(self, user_id: str, size: int) -> None:
        """Let others have these bytes, which the user had taken."""
        self._free += size
        self._taken[user_id] -= size
        if not self._taken[user_id]:
            del self._taken[user_id]
        self._serve()

    def _serve(self) -> None:
        for granted, (user_id, size) in list(self._waiting.items()):
            if granted.cancelled():
                # Whoever waited for it takes it out when its turn comes.
                continue
            if self.exceeds_share(user_id, size):
                continue
            if size > self._free:
                # Nobody overtakes, or the largest would wait for ever.
                return
            del self._waiting[granted]
            self._free -= size
            self._taken[user_id] += size
            granted.set_result(None)
