"""What Prometheus finds in a cluster, with its operator and without."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from webhost_local.installation.services import SERVICES

from deploy.reference_check import selects
from deploy.rendering import Object, containers_of, of_kind, template_of, workloads
from tests.unit.deploy.overlays import rendered
from tests.unit.deploy.test_checks import WATCHED
from tests.unit.deploy.test_networks import Network
from tests.unit.observability.exposed import FOLDER, all_alerts

OF_OTHERS = "cert-manager"
"""The job of what has a namespace of its own, and a monitor of its own."""
KUBERNETES: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus/kubernetes.yaml").read_text())
Target = dict[str, str]


def discovered(
    objects: list[Object], port: str | None = None
) -> Iterator[tuple[dict[str, str], Target]]:
    """Each port of each Pod, with the labels that Prometheus' discovery gives it."""
    for name, labels, ports in pods(objects):
        pod = {
            "__meta_kubernetes_pod_name": name,
            "__meta_kubernetes_pod_phase": "Running",
            "__meta_kubernetes_namespace": "webhost",
        } | {
            "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", label): value
            for label, value in labels.items()
        }
        for found in ports:
            if port in (None, found):
                yield labels, pod | {"__meta_kubernetes_pod_container_port_name": found}


def pods(objects: list[Object]) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """A Pod of each workload, and those of the Clusters: names, labels, ports."""
    for workload in workloads(objects):
        ports = [port["name"] for it in containers_of(workload) for port in it.get("ports", ())]
        yield (
            f"{workload['metadata']['name']}-x7x",
            template_of(workload)["metadata"]["labels"],
            ports,
        )
    for cluster in of_kind(objects, "Cluster"):
        name = cluster["metadata"]["name"]
        for number in range(1, cluster["spec"]["instances"] + 1):
            yield f"{name}-{number}", {"cnpg.io/cluster": name}, ["postgresql", "metrics", "status"]


def relabelled(target: Target, rules: list[dict[str, Any]]) -> Target | None:
    """The target as its rules leave it: those of Prometheus that are used here."""
    target = dict(target)
    for rule in rules:
        value = ";".join(target.get(name, "") for name in rule["source_labels"])
        matched = re.fullmatch(rule.get("regex", "(.*)"), value) is not None
        match rule.get("action", "replace"):
            case "keep" if not matched:
                return None
            case "drop" if matched:
                return None
            case "replace" if matched:
                target[rule["target_label"]] = value
            case "keep" | "drop" | "replace":
                pass
            case other:
                raise NotImplementedError(other)
    return {name: value for name, value in target.items() if not name.startswith("__")}


def selected(job: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a job's discovery is for a Pod."""
    [discovery] = job["kubernetes_sd_configs"]
    [selector] = discovery["selectors"]
    assert (discovery["role"], selector["role"]) == ("pod", "pod")
    assert discovery["namespaces"] == {"names": ["webhost"]}
    name, equals, value = selector["label"].partition("=")
    return name in labels and (not equals or labels[name] == value)


def without_the_operator(objects: list[Object]) -> list[Target]:
    return [
        target
        for job in KUBERNETES["scrape_configs"]
        if job["job_name"] != OF_OTHERS
        for labels, found in discovered(objects)
        if selected(job, labels)
        if (target := relabelled(found | {"job": job["job_name"]}, job["relabel_configs"]))
    ]


def with_the_operator(objects: list[Object]) -> list[Target]:
    """As its own configuration does: job, namespace, Pod, then what the monitor says."""
    targets: list[Target] = []
    for monitor in of_kind(objects, "PodMonitor"):
        spec = monitor["spec"]
        for endpoint in spec["podMetricsEndpoints"]:
            assert endpoint["path"] == "/metrics"
            rules = [
                {"source_labels": it["sourceLabels"], "target_label": it["targetLabel"]}
                for it in endpoint.get("relabelings", ())
            ]
            for labels, found in discovered(objects, endpoint["port"]):
                if selects(spec["selector"], labels):
                    own = {
                        "job": labels[spec["jobLabel"]],
                        "pod": found["__meta_kubernetes_pod_name"],
                        "namespace": "webhost",
                    }
                    target = relabelled(found, rules)
                    assert target is not None
                    targets.append(own | target)
    return targets


def by_job(targets: list[Target]) -> list[Target]:
    return sorted(targets, key=lambda it: (it["job"], it["pod"]))


def test_each_service_is_found_under_the_job_that_the_rules_name() -> None:
    targets = with_the_operator(rendered(WATCHED))
    jobs = Counter(target["job"] for target in targets)
    postgres = {"webhost-postgres": 3, "webhost-gateway-postgres": 3}
    services = {f"webhost-{service}": 1 for service in SERVICES}
    assert jobs == services | postgres | {"webhost-nats-exporter": 1}
    for target in targets:
        assert target == {
            "job": target["job"],
            "pod": target["pod"],
            "instance": target["pod"],
            "namespace": "webhost",
        }


def test_prometheus_finds_the_same_without_its_operator() -> None:
    objects = rendered(WATCHED)
    assert by_job(without_the_operator(objects)) == by_job(with_the_operator(objects))
    intervals = {
        endpoint["interval"]
        for monitor in of_kind(objects, "PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    }
    assert intervals == {KUBERNETES["global"]["scrape_interval"]}


def test_every_rule_is_an_object_once() -> None:
    found = [
        group
        for rule in of_kind(rendered(WATCHED), "PrometheusRule")
        for group in rule["spec"]["groups"]
    ]
    files = [FOLDER / name for name in KUBERNETES["rule_files"]]
    written = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert sorted(found, key=_name) == sorted(written, key=_name)
    assert sorted(files) == sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("optional/*.yaml")])


def _name(group: dict[str, Any]) -> str:
    return group["name"]


def test_the_exporter_reads_each_server_where_its_policy_lets_it() -> None:
    objects = rendered(WATCHED)
    [exporter] = [it for it in workloads(objects) if it["metadata"]["name"].endswith("-exporter")]
    [nats] = of_kind(objects, "StatefulSet")
    name, peers = nats["metadata"]["name"], nats["spec"]["serviceName"]
    ports = {it["name"]: it["containerPort"] for it in containers_of(nats)[0]["ports"]}
    [container] = containers_of(exporter)
    assert container["args"] == ["-jsz=streams"] + [
        f"{name}-{number},http://{name}-{number}.{peers}:{ports['monitor']}"
        for number in range(nats["spec"]["replicas"])
    ]
    network = Network(WATCHED)
    for sender in network.pods:
        assert network.connects(sender, "nats", "monitor") == (sender == "nats-exporter"), sender


def test_alerts_count_as_many_as_there_are() -> None:
    """Servers of NATS and instances of Postgres: the rules have their number."""
    for kind, alert, number in (
        ("StatefulSet", "NatsServerAway", "replicas"),
        ("Cluster", "PostgresInstanceAway", "instances"),
    ):
        counts = {it["spec"][number] for it in of_kind(rendered(WATCHED), kind)}
        [expression] = [it["expr"] for it in all_alerts() if it["alert"] == alert]
        assert {int(it) for it in re.findall(r"< (\d+)", expression)} == counts


def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    """But for the discovery, which Debian builds Prometheus without."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # of Debian's package `prometheus`
    for file in KUBERNETES["rule_files"]:
        (tmp_path / Path(file).name).write_text((FOLDER / file).read_text())
    jobs = [dict(job) for job in KUBERNETES["scrape_configs"]]
    for job in jobs:
        del job["kubernetes_sd_configs"]
    config = tmp_path / "prometheus.yaml"
    names = [Path(file).name for file in KUBERNETES["rule_files"]]
    config.write_text(yaml.safe_dump(KUBERNETES | {"scrape_configs": jobs, "rule_files": names}))
    run = subprocess.run(
        [promtool, "check", "config", config], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
