"""Buckets that histograms share, and gauges that are read when somebody asks.

Children of prometheus_client's metrics are looked up once and kept where calls pass: looking one up
costs more than counting. Label values are of a small fixed set, never of a user's, an agent's or a
call's.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MOMENT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Buckets for what should take milliseconds: statements, publishes, folds."""
CALL_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 900.0)
"""Buckets for requests and for Workers, which may take minutes."""
STEP_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Buckets for what is done at a provider."""


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
