"""How a figure is computed: a subject and its limit, measured in turns, and the runs' medians.

Pure, apart from calling what it is given.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar

import uvloop

T = TypeVar("T")

RATIOS = "Ratios to a limit measured in the same run"


@dataclass(frozen=True)
class Aim:
    """What is asked of the figure, in the unit of the figure's value."""

    bound: Literal["at least", "at most"]
    value: float

    def met(self, value: float) -> bool:
        """Say whether the value is on the right side."""
        return value >= self.value if self.bound == "at least" else value <= self.value


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One thing and its limit, run by run, in the same unit.

    `value` is what the aim speaks of: the ratio, the difference, or the measured thing itself.
    """

    name: str
    unit: str
    path: str
    limit_path: str
    measured: list[float]
    limit: list[float]
    reading: Literal["ratio", "difference", "measured"] = "ratio"
    aim: Aim | None = None
    table: str = RATIOS
    """The title of the table that it is printed in."""

    @property
    def ratio(self) -> float:
        """The median over the runs of measured to limit."""
        return median(m / b for m, b in self._pairs())

    @property
    def value(self) -> float:
        """The median over the runs of what is read."""
        if self.reading == "difference":
            return median(m - b for m, b in self._pairs())
        return median(self.measured) if self.reading == "measured" else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the aim is met, None where there is none."""
        return None if self.aim is None else self.aim.met(self.value)

    def _pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.measured, self.limit, strict=True))


class NotMeasured(Exception):
    """A figure could not be measured; the message is one line that says why."""


def interleave(
    runs: int, subjects: Mapping[str, Callable[[], T]], progress: Callable[[str], None]
) -> dict[str, list[T]]:
    """Measure each subject in turn, `runs` times over; return each one's results in order.

    Every second round goes backwards, so that a machine that speeds up or slows down favours
    no one.
    """
    results: dict[str, list[T]] = {name: [] for name in subjects}
    for run in range(runs):
        order = list(subjects)[:: 1 if run % 2 == 0 else -1]
        for name in order:
            progress(f"run {run + 1}/{runs}: {name}")
            results[name].append(subjects[name]())
    return results


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop that the services run on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
