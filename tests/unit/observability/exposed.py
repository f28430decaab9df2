"""What the services expose, and the files that use it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from webhost_kit.process.metrics_reference import Listed, metrics_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/observability"
SERVICES = sorted(path.name for path in ROOT.glob("services/*"))

TARGET = {"job", "instance"}
"""Labels that Prometheus adds."""
OF_PROMETHEUS = {"up": set[str]()}


@cache
def exposed() -> dict[str, set[str]]:
    """The labels of each name that a sample can have."""
    found: dict[str, set[str]] = dict(OF_PROMETHEUS)
    for metric in listed():
        for name in metric.samples:
            labels = {*metric.labels, *({"le"} if name.endswith("_bucket") else ())}
            found[name] = found.get(name, set()) | labels
    return found


@cache
def listed() -> frozenset[Listed]:
    """What there is, over all services."""
    return frozenset(metric for service in SERVICES for metric in metrics_of(service))


def rules() -> list[dict[str, Any]]:
    """All rules."""
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The rules that are alerts."""
    return [rule for rule in rules() if "alert" in rule]


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by their files' names."""
    return {
        path.name: json.loads(path.read_text("utf-8"))
        for path in sorted((FOLDER / "dashboards").glob("*.json"))
    }


def panels() -> list[dict[str, Any]]:
    """The panels of all dashboards that show something."""
    return [
        panel
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]


def queries() -> list[str]:
    """What the dashboards ask, with Grafana's variables filled in."""
    return [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in panels()
        for target in panel["targets"]
    ]


def scaled_by() -> list[str]:
    """What the autoscaler asks on Kubernetes."""
    scaling = ROOT / "deploy/k8s/components/scaling"
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(scaling.glob("*.yaml"))]
    return [
        trigger["metadata"]["query"]
        for file in files
        if file["kind"] == "ScaledObject"
        for trigger in file["spec"].get("triggers", ())
        if trigger["type"] == "prometheus"
    ]
