"""Gauges that are read, and how many series there can be."""

from collections.abc import Iterator
from itertools import count

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from webhost_kit.http import measured
from webhost_kit.process.metrics import ReadGauge

_numbers = count()


@pytest.fixture
def name() -> Iterator[str]:
    """A metric's name of its own: the registry is the process's."""
    number = next(_numbers)
    yield f"own_{number}"
    for collector in list(getattr(REGISTRY, "_collector_to_names")):  # noqa: B009
        if getattr(collector, "name", "").startswith(f"own_{number}_"):
            REGISTRY.unregister(collector)


def said(registry: CollectorRegistry, name: str) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if name in line and "_created" not in line]


def test_a_gauge_is_read_when_it_is_asked_for(name: str) -> None:
    name = f"{name}_waiting"
    values: dict[str, float | None] = {"a": 1, "b": None}
    gauge = ReadGauge(name, "What it means", ["queue"])
    for queue in values:
        gauge.read(lambda queue=queue: values[queue], queue)
    assert REGISTRY.get_sample_value(name, {"queue": "a"}) == 1
    assert REGISTRY.get_sample_value(name, {"queue": "b"}) is None
    values |= {"a": None, "b": 7.5}
    assert REGISTRY.get_sample_value(name, {"queue": "a"}) is None
    assert REGISTRY.get_sample_value(name, {"queue": "b"}) == 7.5
    # Whoever comes later takes its place.
    gauge.read(lambda: 9, "a")
    assert REGISTRY.get_sample_value(name, {"queue": "a"}) == 9


def test_there_are_only_the_labels_that_were_named(name: str) -> None:
    gauge = ReadGauge(f"{name}_waiting", "What it means")
    with pytest.raises(ValueError, match="has the labels"):
        gauge.read(lambda: 1, "a")
    with pytest.raises(ValueError, match="Duplicated"):
        ReadGauge(f"{name}_waiting", "Another")


def test_nobody_makes_series_by_what_they_send() -> None:
    """A method may be any word, and a status any number."""

    def series() -> int:
        return len(said(REGISTRY, "webhost_http_request_duration_seconds_count"))

    measured.measure("ANY", measured.OTHER, 404, 0.1)
    before = series()
    for number in range(1_000):
        measured.measure(f"M{number}", measured.OTHER, 400 + number % 100, 0.1)
    assert series() == before
