"""Metrics for the hot paths, and those that are read when somebody asks.

Everywhere else prometheus_client's own are used: they lock, and cost a microsecond and more each
time, of which a call would pay several. Those here are for the event loop's thread alone, and cost
a fraction of that.
Guarantees, with `labels` called once for each child and the child kept: O(1), no lock, no
allocation. Label values are of a small fixed set, never of a user's, an agent's or a call's.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

MOMENT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Buckets for what should take milliseconds: statements, publishes, folds."""
CALL_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 900.0)
"""Buckets for requests and for Workers, which may take minutes."""
STEP_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Buckets for what is done at a provider."""

C = TypeVar("C")


class _Family(Collector, Generic[C]):
    """One metric and its children, by their labels' values."""

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str] = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.labelnames = tuple(labelnames)
        self._children: dict[tuple[str, ...], C] = {}
        REGISTRY.register(self)

    def _new(self) -> C:
        raise NotImplementedError

    def labels(self, *values: str) -> C:
        """Return the child with these values."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.labelnames):
                raise ValueError(f"{self.name} has the labels {self.labelnames}")
            child = self._children[values] = self._new()
        return child


class Count:
    """One counter; `value` only ever grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Count one more."""
        self.value += 1


class HotCounter(_Family[Count]):
    """A counter whose name ends in `_total`."""

    def _new(self) -> Count:
        return Count()

    def describe(self) -> Iterable[Metric]:
        """Say what there is, without values."""
        return [CounterMetricFamily(self.name, self.documentation, labels=self.labelnames)]

    def collect(self) -> Iterable[Metric]:
        """Return the values."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labelnames)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        return [family]


class Observations:
    """One histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount


class HotHistogram(_Family[Observations]):
    """A histogram; `buckets` are their upper bounds, without the last."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        buckets: Sequence[float],
    ) -> None:
        self._bounds = tuple(buckets)
        self._named = [*map(str, buckets), "+Inf"]
        super().__init__(name, documentation, labelnames)

    def _new(self) -> Observations:
        return Observations(self._bounds)

    def describe(self) -> Iterable[Metric]:
        """Say what there is, without values."""
        return [HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)]

    def collect(self) -> Iterable[Metric]:
        """Return the values."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)
        for values, child in self._children.items():
            buckets: list[tuple[str, float]] = []
            below = 0
            for name, count in zip(self._named, child.counts, strict=True):
                below += count
                buckets.append((name, below))
            family.add_metric(values, buckets, child.sum)
        return [family]


class ReadGauge(Collector):
    """A gauge that is read when somebody asks: nothing is paid before, and nothing is out of date.

    Of what is not read any more there is no series.
    """

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str] = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.labelnames = tuple(labelnames)
        self._read: dict[tuple[str, ...], Callable[[], float | None]] = {}
        REGISTRY.register(self)

    def read(self, value: Callable[[], float | None], *labels: str) -> None:
        """Let this be the value from now on; None is none."""
        if len(labels) != len(self.labelnames):
            raise ValueError(f"{self.name} has the labels {self.labelnames}")
        self._read[labels] = value

    def describe(self) -> Iterable[Metric]:
        """Say what there is, without values."""
        return [GaugeMetricFamily(self.name, self.documentation, labels=self.labelnames)]

    def collect(self) -> Iterable[Metric]:
        """Read the values."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labelnames)
        for labels, value in list(self._read.items()):
            if (now := value()) is not None:
                family.add_metric(labels, now)
        return [family]
