"""Given these facts, when this is decided, then those facts: for pure decisions.

given(evolve, Agent(), created).when(lambda agent: disable(agent)).then(AgentDisabled())
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest
from webhost_contracts.events.base import Event

State = TypeVar("State")


@dataclass(frozen=True)
class Given(Generic[State]):
    """A state that facts made, for a decision to be taken on."""

    state: State

    def when(self, decide: Callable[[State], Sequence[Event]]) -> "Decided":
        return Decided(lambda: decide(self.state))


@dataclass(frozen=True)
class Decided:
    """A decision that is taken when it is looked at."""

    take: Callable[[], Sequence[Event]]

    def then(self, *facts: Event) -> None:
        """Exactly these facts came of it, in this order."""
        assert list(self.take()) == list(facts)

    def then_refused(self, refusal: type[Exception], match: str = "") -> None:
        with pytest.raises(refusal, match=match):
            self.take()


def given(
    evolve: Callable[[State, Event, int], State], initial: State, *facts: Event, at_ms: int = 0
) -> Given[State]:
    """The state behind these facts, which all happened at `at_ms`."""
    state = initial
    for fact in facts:
        state = evolve(state, fact, at_ms)
    return Given(state)
