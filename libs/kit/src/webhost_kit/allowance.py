"""How often something may be written down, so that nobody can flood a log."""

from collections import OrderedDict
from dataclasses import dataclass

WINDOW_MS = 60_000
MOST_KEYS = 10_000


@dataclass
class _Window:
    began_at_ms: int
    left: int


class Allowance:
    """So many for each key and minute. Keys that were not used for longest are forgotten."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._windows: OrderedDict[str | None, _Window] = OrderedDict()

    def take(self, key: str | None, now_ms: int) -> int:
        """Take one of the key's, and return how many it had: 0 where there was none to take."""
        window = self._windows.get(key)
        if window is None or now_ms - window.began_at_ms >= WINDOW_MS:
            window = self._windows[key] = _Window(now_ms, self._per_minute)
        self._windows.move_to_end(key)
        if len(self._windows) > MOST_KEYS:
            self._windows.popitem(last=False)
        had = window.left
        window.left = max(0, had - 1)
        return had
