"""Which reports were recently accepted: an optimisation; exact deduplication is billing's."""

from cachetools import FIFOCache

MOST = 20_000


class DedupeCache:
    """A bounded memory of (deployment, dedupe key) of what is durably on the stream."""

    def __init__(self, most: int = MOST) -> None:
        self._keys: FIFOCache[tuple[str, str], None] = FIFOCache(most)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._keys

    def add(self, key: tuple[str, str]) -> None:
        """Add a report, evicting the oldest entry if the cache is full."""
        self._keys[key] = None
