"""Which reports were accepted lately: an optimisation, billing's deduplication is the exact one."""

from cachetools import FIFOCache

MOST = 20_000


class DedupeCache:
    """A bounded memory of (deployment, dedupe key) of what is durably on the stream."""

    def __init__(self, most: int = MOST) -> None:
        self._keys: FIFOCache[tuple[str, str], None] = FIFOCache(most)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._keys

    def add(self, key: tuple[str, str]) -> None:
        """Remember a report; the one that was remembered longest ago makes room."""
        self._keys[key] = None
