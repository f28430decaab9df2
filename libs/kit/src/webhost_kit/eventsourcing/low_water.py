"""The low-water mark of a table that is read from its low end and deleted from there. Pure.

Deleted rows stay in the index while any old snapshot lives, a dump's for instance, so a look that
begins at the lowest serial reads them all again. It may begin above a serial once every transaction
that could still commit a lower one has ended.
"""

from collections import deque

FULL_LOOK_S = 60.0
"""So often a look begins at the bottom all the same: a serial may be given an instant before its
transaction has an id."""


class LowWater:
    """Tells where the next look may begin, from what the looks before it saw.

    Each look must have dealt with the rows that it saw before the next one is made.
    """

    def __init__(self) -> None:
        self._above = 0
        self._full_look_at = 0.0
        self._serial_before = 0
        self._ending: deque[tuple[int, int]] = deque()

    def above(self, now_s: float) -> int:
        """Return the serial above which the next look begins."""
        if now_s >= self._full_look_at:
            self._full_look_at = now_s + FULL_LOOK_S
            return 0
        return self._above

    def looked(self, seen_below: int, next_xid: int, oldest_xid: int) -> None:
        """Take note of one look.

        Every visible row with a serial below `seen_below` was seen. `next_xid` is the next
        transaction to begin, `oldest_xid` the oldest that still runs. A serial that was given
        before this look belongs to a transaction below `next_xid`: those known at the look before
        count, since the serials may be newer than the snapshot that they are read with.
        """
        while self._ending and self._ending[0][1] <= oldest_xid:
            self._above = max(self._above, self._ending.popleft()[0] - 1)
        if not self._ending or self._ending[-1][0] < self._serial_before:
            self._ending.append((self._serial_before, next_xid))
        self._serial_before = seen_below
