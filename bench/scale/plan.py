"""What a simulated cell consists of, and what is seen of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The processes of a cell, and the cores of its Postgres. With `shared_cores`, everything is on
    one machine of so many, as in the benchmark.
    """

    gateways: int
    ingests: int = 0
    billings: int = 0
    postgres_cores: int
    shared_cores: int = 0
    network_ms: float = 0.0
    hot_share: float = 0.0
    """The share of calls that are one user's."""


@dataclass
class Statistics:
    """What was seen after the warm-up."""

    latencies: list[float] = field(default_factory=list[float])
    added: list[float] = field(default_factory=list[float])
    """What of the latencies is not the Worker's."""
    done: int = 0
    refused: int = 0
    failed: int = 0
    by_second: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    relay: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    fold: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
