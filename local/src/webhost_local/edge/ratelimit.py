"""Cloudflare's API limit: a number of calls per five minutes, then a block for five minutes."""

import time
from collections.abc import Callable

from webhost_local.edge.errors import rate_limited

WINDOW_SECONDS = 300.0


class ApiRateLimit:
    """Counts the calls of the one token there is."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._window_start = clock()
        self._count = 0
        self._blocked_until = 0.0

    def acquire(self) -> None:
        """Count one call. Raises ApiError 429 while blocked."""
        now = self._clock()
        if now >= self._window_start + WINDOW_SECONDS:
            self._window_start, self._count = now, 0
        self._count += 1
        if self._count > self._limit and now >= self._blocked_until:
            self._blocked_until = now + WINDOW_SECONDS
        if now < self._blocked_until:
            raise rate_limited(int(self._blocked_until - now) + 1)
