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

_OF_A_SERVER = {"server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader"}
_OF_A_STREAM = {"account", "account_name", "account_id", "stream_name", "stream_leader"}
EXTERNAL: dict[str, dict[str, set[str]]] = {
    # nats-io/prometheus-nats-exporter v0.20.1, collector/jsz.go; a server that does not answer is
    # passed over, and `meta_leader` is empty where /jsz names none.
    "nats.yaml": {
        "jetstream_server_total_streams": _OF_A_SERVER,
        "jetstream_stream_total_messages": _OF_A_SERVER
        | _OF_A_STREAM
        | {"is_stream_leader", "stream_raft_group"},
    },
    # cloudnative-pg v1.30: docs/src/monitoring.md, and the queries in default-monitoring.yaml.
    # `cnpg_collector_sync_replicas{value="observed"}` is what is asked for, not what follows.
    "postgres.yaml": {
        "cnpg_collector_up": {"cluster"},
        "cnpg_pg_replication_in_recovery": set(),
        "cnpg_pg_replication_is_wal_receiver_up": set(),
        "cnpg_pg_replication_lag": set(),
        "cnpg_pg_replication_streaming_replicas": set(),
    },
    # cert-manager of August 2026, internal/collectors/certificate_collector.go. Its `namespace`
    # becomes `exported_namespace` where the scrape has one of its own.
    "certificates.yaml": {
        "certmanager_certificate_expiration_timestamp_seconds": {
            *("name", "issuer_name", "issuer_kind", "issuer_group"),
        },
    },
}
"""The metrics of others that optional alerts ask for: their labels, and where that is written."""


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
    """All rules of what our services expose."""
    return [rule for path in sorted(FOLDER.glob("*.yaml")) for rule in _rules_of(path)]


def optional() -> dict[str, list[dict[str, Any]]]:
    """The alerts of what others expose, by the names of their files."""
    return {path.name: _rules_of(path) for path in sorted(FOLDER.glob("optional/*.yaml"))}


def _rules_of(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def all_alerts() -> list[dict[str, Any]]:
    """Those too that are optional."""
    return [*alerts(), *(alert for found in optional().values() for alert in found)]


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
