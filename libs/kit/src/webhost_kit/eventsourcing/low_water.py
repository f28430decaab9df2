"""The low-water mark of a table that is read from its low end and deleted from there. Pure.

Deleted rows stay in the index while any old snapshot is open, a dump's for instance, so a poll
that begins at the lowest serial reads them all again. It may begin above a serial once every
transaction that could still commit a lower one has ended.
"""

from collections import deque

FULL_LOOK_S = 60.0
"""How often a poll still begins at the bottom: a serial may be assigned an instant before its
transaction has an id."""


class LowWater:
    """Tells where the next poll may begin, from what the polls before it saw.

    Each poll must have dealt with the rows that it saw before the next one is made.
    """

    def __init__(self) -> None:
        self._above = 0
        self._full_look_at = 0.0
        self._serial_before = 0
        self._ending: deque[tuple[int, int]] = deque()

    def above(self, now_s: float) -> int:
        """Return the serial above which the next poll begins."""
        if now_s >= self._full_look_at:
            self._full_look_at = now_s + FULL_LOOK_S
            return 0
        return self._above

    def looked(self, seen_below: int, next_xid: int, oldest_xid: int) -> None:
        """Take note of one poll.

        Every visible row with a serial below `seen_below` was seen. `next_xid` is the next
        transaction to begin, `oldest_xid` the oldest that still runs. A serial that was assigned
        before this poll belongs to a transaction below `next_xid`: those known at the poll before
        count, since the serials may be newer than the snapshot that they are read with.
        """
        while self._ending and self._ending[0][1] <= oldest_xid:
            self._above = max(self._above, self._ending.popleft()[0] - 1)
        if not self._ending or self._ending[-1][0] < self._serial_before:
            self._ending.append((self._serial_before, next_xid))
        self._serial_before = seen_below
