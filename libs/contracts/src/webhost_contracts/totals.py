"""A user's totals of one period, as billing keeps them in the totals bucket for the gateways.

Absolute numbers, never differences. `generation`, `epoch`, `correction` and `sequence` say which
fold they are from: the sequence is that of the user's partition of USAGE, the epoch counts how
often an operator let the partition begin again, the correction how often a part of the generation
was rebuilt. Of one fold, a reader never replaces totals by older ones. Another fold's replace what
came before them, whichever numbers they have: billing's database may have been restored to a time
before its latest rebuild.
"""

from webhost_contracts.wire import Wire


class Totals(Wire, frozen=True, kw_only=True):
    """What a user has used in one period. Tokens and compute count against the budgets here.

    A gateway whose database was restored raises its own count to `requests`, which are at most one
    for each call or report: a Worker may report any number of them.
    """

    tokens: int
    compute_ms: int
    generation: int
    epoch: int = 0
    sequence: int
    requests: int = 0
    correction: int = 0

    def replaces(self, earlier: "Totals | None") -> bool:
        """Say whether these totals hold from now on, instead of those that came before them."""
        if earlier is None or self._fold != earlier._fold:
            return True
        # What was parked is folded later at the same sequence.
        return self.sequence >= earlier.sequence

    @property
    def _fold(self) -> tuple[int, int, int]:
        return self.generation, self.epoch, self.correction
