"""Names are as Prometheus would have them, and what a label can be is bounded."""

import re

from tests.unit.observability.exposed import listed

OURS = sorted(metric for metric in listed() if metric.name.startswith("webhost_"))
PARTS = {
    *("api", "billing", "deployer", "gateway", "ingest"),
    *("batcher", "bus", "commands", "database", "event", "http", "memory", "outbox", "projector"),
    *("ready", "rpc", "spans", "stream", "unstored"),
}
UNITS = ("_seconds", "_bytes", "_requests", "_reports")
"""Of histograms; counts have what they count instead."""

BOUNDED = {
    "action": "publish or subscription",
    "attributed": "true or false",
    "batcher": "named in the code",
    "check": "of /readyz, named in the composition root",
    "code": "of the contract's errors",
    "command": "the verbs of commands",
    "fault": "ours or others",
    "failure": "of RUNTIME_ERROR, in the contract",
    "kind": "named in the code",
    "limit": "limitType of the contract",
    "method": "those of HTTP that we know, or other",
    "outcome": "named in the code",
    "partition": "16, or all",
    "policy": "of rate limits, named in the code",
    "projection": "named in the code",
    "reason": "named in the code",
    "request": "subjects of requests between services",
    "route": "templates of the services' routes, or other",
    "state": "named in the code",
    "status": "classes of HTTP statuses",
    "step": "of the saga",
    "stream": "declared in the code",
}
"""Why each label has few values. None may name somebody or something of somebody's."""


def test_a_label_has_few_values() -> None:
    assert {label for metric in OURS for label in metric.labels} == BOUNDED.keys()


def test_a_name_says_what_it_is_part_of() -> None:
    for metric in OURS:
        assert re.fullmatch(r"webhost(_[a-z0-9]+)+", metric.name)
        assert metric.name.split("_")[1] in PARTS, metric.name


def test_a_name_says_its_unit() -> None:
    for metric in OURS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.kind in ("counter", "gauge", "histogram"), metric.name
        if metric.kind == "histogram":
            assert metric.name.endswith(UNITS), metric.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|count|sum|bucket)\b", metric.name)


def test_its_meaning_is_said() -> None:
    for metric in OURS:
        assert len(metric.meaning) > 20, metric.name
        assert not metric.meaning.endswith("."), metric.name


def test_a_metric_means_the_same_everywhere() -> None:
    names = [metric.name for metric in OURS]
    assert len(set(names)) == len(names)
