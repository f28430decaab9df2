"""A user's totals of one period, as billing keeps them in the totals bucket for the gateways.

Absolute numbers, never differences. `generation`, `epoch` and `sequence` say which fold they are
from: the sequence is that of the user's partition of USAGE, the epoch counts how often an operator
let the partition begin again. A reader never replaces totals by older ones.
"""

from webhost_contracts.wire import Wire


class Totals(Wire, frozen=True, kw_only=True):
    """What a user has used in one period. Tokens and compute count against the budgets here.

    `requests` is what a gateway whose database was restored raises its own count to.
    """

    tokens: int
    compute_ms: int
    generation: int
    epoch: int = 0
    sequence: int
    requests: int = 0

    def newer_than(self, other: "Totals | None") -> bool:
        """Say whether these totals are from a later fold than `other`."""
        return other is None or self._place > other._place

    @property
    def _place(self) -> tuple[int, int, int]:
        return self.generation, self.epoch, self.sequence
