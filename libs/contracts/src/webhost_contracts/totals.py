"""A user's totals of one period, as billing keeps them in the totals bucket for the gateways.

Absolute numbers, never differences. `generation` and `checkpoint` say which fold they are from:
a reader never replaces totals by older ones.
"""

from webhost_contracts.wire import Wire


class Totals(Wire, frozen=True, kw_only=True):
    """What counts against the budgets of one user and period.

    `requests` is what a gateway whose database was restored raises its own count to.
    """

    tokens: int
    compute_ms: int
    generation: int
    checkpoint: int
    requests: int = 0

    def newer_than(self, other: "Totals | None") -> bool:
        """Say whether these totals are from a later fold than `other`."""
        return other is None or (self.generation, self.checkpoint) > (
            other.generation,
            other.checkpoint,
        )
