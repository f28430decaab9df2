"""Flow control of Workers' answers: their share of memory, and how long a call is held up.

Guarantees: what is held of all answers is bounded by the budget, and by FREE_BYTES of each call
beside it; one user gets at most its share of the budget. A call waits for room before it reads on,
so that its Worker waits too. The first FREE_BYTES of an answer need no room: nobody's large answers
keep a small one waiting.
"""

from time import monotonic

from webhost_contracts.invoke import MAX_ANSWER_BYTES
from webhost_kit.byte_budget import ByteBudget

FREE_BYTES = 64 * 1024
SHARES = 4
"""A user may take this part of the budget; what remains is for others."""


def budget_of(total: int) -> ByteBudget:
    """Return the budget of all answers, of so many bytes."""
    return ByteBudget(max(total, MAX_ANSWER_BYTES), max(total // SHARES, MAX_ANSWER_BYTES))


class FlowControl:
    """Of one call; what it is held up is neither its agent's time nor its runtime's."""

    __slots__ = ("_budget", "_held_up_s", "_since_s", "_user_id", "reserved")

    def __init__(self, budget: ByteBudget, user_id: str) -> None:
        self._budget = budget
        self._user_id = user_id
        self._held_up_s = 0.0
        self._since_s: float | None = None
        self.reserved = 0

    async def reserve(self, size: int) -> None:
        """Return when there is room for an answer of this size."""
        self.hold_up()
        await self._budget.take(self._user_id, size)
        self.reserved = size
        self.go_on()

    def release(self) -> None:
        """Make room for others: what was held has been written, or is dropped."""
        if self.reserved:
            self._budget.release(self._user_id, self.reserved)
            self.reserved = 0

    @property
    def held_up(self) -> bool:
        """Whether the call waits for its caller, or for room."""
        return self._since_s is not None

    def hold_up(self) -> None:
        """Stop the call's clock, if it runs: what follows waits for the caller, or for room."""
        if self._since_s is None:
            self._since_s = monotonic()

    def go_on(self) -> None:
        """Let the call's clock run again."""
        if self._since_s is not None:
            self._held_up_s += monotonic() - self._since_s
            self._since_s = None

    def wall_s(self, started_s: float) -> float:
        """Return the call's seconds since then, those aside for which it was held up."""
        until_s = monotonic() if self._since_s is None else self._since_s
        return until_s - started_s - self._held_up_s
