"""Rate limits: token buckets in memory, one per user and one per user's agent.

A bucket holds a minute's requests, so that bursts pass; it refills evenly. Each gateway counts
separately. The number of buckets is bounded: the least recently used are dropped.
"""

from math import ceil

from webhost_kit.errors import RateLimited

WINDOW_S = 60
MOST_BUCKETS = 100_000


class TooManyRequests(RateLimited):
    """Over a rate limit; `headers` are the RateLimit fields that say so."""

    def __init__(self, policy: str, limit: int, wait_s: int) -> None:
        super().__init__("Too many requests; slow down.", retry_after_s=wait_s)
        self.headers = {
            "RateLimit": f'"{policy}";r=0;t={wait_s}',
            "RateLimit-Policy": f'"{policy}";q={limit};w={WINDOW_S}',
        }


class RateLimit:
    """The buckets of one policy. Times are seconds of a clock that never goes back."""

    def __init__(self, policy: str, *, most_buckets: int = MOST_BUCKETS) -> None:
        self._policy = policy
        self._most = most_buckets
        self._buckets: dict[str, tuple[float, float]] = {}

    def acquire(self, key: str, limit: int, now_s: float) -> None:
        """Take one request of `limit` a minute. Raises TooManyRequests."""
        level, at_s = self._buckets.pop(key, (float(limit), now_s))
        level = min(limit, level + (now_s - at_s) * limit / WINDOW_S)
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, now_s)
        if len(self._buckets) > self._most:
            del self._buckets[next(iter(self._buckets))]
        if not allowed:
            wait_s = ceil((1 - level) * WINDOW_S / limit) if limit else WINDOW_S
            raise TooManyRequests(self._policy, limit, max(wait_s, 1))
