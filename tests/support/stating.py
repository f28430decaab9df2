"""The earlier names of `tests.support.facts`, for harnesses that have not been converted."""

from tests.support.facts import envelope
from tests.support.facts import publish as state

__all__ = ["envelope", "state"]
