"""The one rate limiter: token buckets in memory, one per key of a policy.

A bucket holds a window's requests, so that bursts pass, and refills evenly. Pure apart from what
it remembers: times are seconds of a clock that never goes back, and are passed in. A decision is
O(1), waits for nothing, and takes less than a microsecond.
Memory is bounded: keys that nobody used for so long that their buckets are full again are dropped
as others come, and at MOST_KEYS the least recently used goes. Who has that many keys to evict one
with has paid for each of them.
Of several processes with the same limits, each may be given a `Share` of them.

Own code, since the libraries for it do not fit here: `limits` and `throttled-py` took 3 to 6 µs for
a decision (this 0.7), read the clock themselves, and know nothing of shares; `limits` bounds no
memory, and neither writes the RateLimit fields as this contract has them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf

from webhost_kit.errors import RateLimited

MOST_KEYS = 50_000
"""Of one policy: at most 16 MB."""
MOST_PRESSED = 1_000
_DROPPED_AT_ONCE = 2


@dataclass
class Share:
    """This process's part of its policies' limits: of the burst, and of the rate."""

    burst: float = 1.0
    rate: float = 1.0
    raised: Mapping[str, float] = field(default_factory=dict[str, float])
    """The part of the rate for the keys that have another one."""
    pressed: set[str] = field(default_factory=set[str])
    """Keys whose buckets were less than half full, at most MOST_PRESSED. Its reader clears it."""


class RateLimiter:
    """The buckets of one policy; limits are requests per window."""

    def __init__(
        self,
        policy: str,
        *,
        window_s: int = 60,
        most_keys: int = MOST_KEYS,
        share: Share | None = None,
    ) -> None:
        self._policy = policy
        self._window_s = window_s
        self._most = most_keys
        self._share = share or Share()
        self._pressed = None if share is None else share.pressed
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._buckets)

    def acquire(self, key: str, limit: int, now_s: float) -> None:
        """Take one request. Raises RateLimited."""
        share = self._share
        burst = max(limit * share.burst, 1.0) if limit else 0.0
        rate = limit * share.raised.get(key, share.rate) / self._window_s
        known = self._buckets.get(key)
        level = burst if known is None else min(burst, known[0] + (now_s - known[1]) * rate)
        allowed = level >= 1.0
        if allowed:
            level -= 1.0
        pressed = self._pressed
        if pressed is not None and level * 2.0 < burst and len(pressed) < MOST_PRESSED:
            pressed.add(key)
        self._remember(key, level, now_s, known is None)
        if not allowed:
            raise self._refusal(limit, level, rate)

    def check(self, key: str, limit: int, now_s: float) -> None:
        """Raise RateLimited where `acquire` would; take nothing."""
        if (known := self._buckets.get(key)) is None:
            return
        rate = limit / self._window_s
        level = known[0] + (now_s - known[1]) * rate
        if level < 1.0:
            raise self._refusal(limit, level, rate)

    def charge(self, key: str, limit: int, now_s: float) -> None:
        """Take one request, or what is left of one, of something that has already happened."""
        known = self._buckets.get(key)
        level = float(limit)
        if known is not None:
            level = min(level, known[0] + (now_s - known[1]) * limit / self._window_s)
        self._remember(key, max(level - 1.0, 0.0), now_s, known is None)

    def _remember(self, key: str, level: float, now_s: float, new: bool) -> None:
        buckets = self._buckets
        buckets[key] = (level, now_s)
        if not new:
            buckets.move_to_end(key)
            return
        idle_s = now_s - self._window_s * self._share.burst / self._share.rate
        for _ in range(_DROPPED_AT_ONCE):
            _, last_s = buckets[oldest := next(iter(buckets))]
            if last_s > idle_s and len(buckets) <= self._most:
                break
            del buckets[oldest]

    def _refusal(self, limit: int, level: float, rate: float) -> RateLimited:
        wait_s = (1.0 - level) / rate if rate else inf
        return RateLimited(
            self._policy,
            limit=limit,
            window_s=self._window_s,
            wait_s=max(ceil(min(wait_s, self._window_s)), 1),
        )
