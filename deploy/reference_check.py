"""What one object says of another is so: selectors, ports, paths, names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.environment_check import given_to
from deploy.rendering import (
    Object,
    containers_of,
    label,
    name_of,
    of_kind,
    service_of,
    template_of,
    workloads,
)

OPERATORS = {"app.kubernetes.io/component": "operator"}
"""The labels of a Pod that is there only when somebody wants it."""
PATHS = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
"""What a service answers to each probe."""
LISTENS = {"http": "LISTEN", "ops": "OPS_LISTEN"}
"""Which setting says where a service listens, by the name of its port."""
MONITORING = {"webhost.systems/monitoring": "true"}
"""The label of Prometheus' namespace."""
CLUSTERS_PORTS = {"metrics": 9187}
"""Of an instance of CloudNativePG, what policies name by number."""
TEMPLATE = Path(__file__).parent / "origin/nginx.conf.template"


@dataclass(frozen=True)
class _Pod:
    labels: dict[str, str]
    ports: set[str] | None
    """Named ones; None where somebody else makes the Pod."""


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield what leads nowhere."""
    pods = list(_pods(objects))
    for service in of_kind(objects, "Service"):
        yield from (f"{name_of(service)}: {it}" for it in _service(service["spec"], pods))
    for policy in of_kind(objects, "NetworkPolicy"):
        yield from (f"{name_of(policy)}: {it}" for it in _policy(policy["spec"], pods))
    if not any(_leads_to_names(it["spec"]) for it in of_kind(objects, "NetworkPolicy")):
        yield "no NetworkPolicy lets every Pod ask for names"
    for workload in workloads(objects):
        for container in containers_of(workload):
            found = (*_probes(workload, container), *_listens(workload, container, objects))
            yield from (f"{name_of(workload)}: {it}" for it in found)
    deployments = {it["metadata"]["name"] for it in of_kind(objects, "Deployment")}
    for scaled in of_kind(objects, "ScaledObject"):
        if (target := scaled["spec"]["scaleTargetRef"]["name"]) not in deployments:
            yield f"{name_of(scaled)}: there is no Deployment {target}"
    for monitor in of_kind(objects, "PodMonitor"):
        found = _scraped(monitor["spec"], pods, of_kind(objects, "NetworkPolicy"))
        yield from (f"{name_of(monitor)}: {it}" for it in found)
    yield from _backends(objects)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Say whether a selector is for something with these labels."""
    for expression in selector.get("matchExpressions", ()):
        is_in = labels.get(expression["key"]) in expression["values"]
        if expression["operator"] not in ("In", "NotIn"):
            raise NotImplementedError(expression["operator"])
        if is_in != (expression["operator"] == "In"):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _pods(objects: list[Object]) -> Iterator[_Pod]:
    for workload in workloads(objects):
        ports = {port["name"] for one in containers_of(workload) for port in one.get("ports", ())}
        yield _Pod(template_of(workload)["metadata"]["labels"], ports)
    for cluster in of_kind(objects, "Cluster"):
        yield _Pod({"cnpg.io/cluster": cluster["metadata"]["name"]}, None)
    yield _Pod(OPERATORS, None)


def _service(spec: Object, pods: list[_Pod]) -> Iterator[str]:
    selected = [pod for pod in pods if spec["selector"].items() <= pod.labels.items()]
    if not selected:
        yield f"selects no Pod: {spec['selector']}"
    for port in spec["ports"]:
        yield from _port(port["targetPort"], selected)


def _policy(spec: Object, pods: list[_Pod]) -> Iterator[str]:
    selected = [pod for pod in pods if selects(spec["podSelector"], pod.labels)]
    yield from _selector(spec["podSelector"], pods)
    for way, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(way, ()):
            inside = [
                peer["podSelector"]
                for peer in rule.get(peers, ())
                if "podSelector" in peer and "namespaceSelector" not in peer
            ]
            for selector in inside:
                yield from _selector(selector, pods)
            to = [pod for pod in pods if any(selects(it, pod.labels) for it in inside)]
            for port in rule.get("ports", ()):
                yield from _port(port["port"], selected if way == "ingress" else to)


def _selector(selector: Object, pods: list[_Pod]) -> Iterator[str]:
    named = [*selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", ()):
        named += [(expression["key"], value) for value in expression["values"]]
    for one in named:
        if not any(one in pod.labels.items() for pod in pods):
            yield f"no Pod has the label {'='.join(one)}"


def _port(port: int | str, pods: list[_Pod]) -> Iterator[str]:
    if isinstance(port, str) and not all(pod.ports is None or port in pod.ports for pod in pods):
        yield f"a Pod of these has no port {port}"


def _scraped(spec: Object, pods: list[_Pod], policies: list[Object]) -> Iterator[str]:
    selected = [pod for pod in pods if selects(spec["selector"], pod.labels)]
    if not selected:
        yield f"selects no Pod: {spec['selector']}"
    for pod in selected:
        if spec.get("jobLabel") not in pod.labels:
            yield "a Pod of these has no name for its job"
    for endpoint in spec["podMetricsEndpoints"]:
        port = endpoint["port"]
        yield from _port(port, selected)
        for pod in selected:
            at = port if pod.ports is not None else CLUSTERS_PORTS.get(port)
            if not any(_lets_prometheus_in(it["spec"], pod, at) for it in policies):
                yield f"no NetworkPolicy lets Prometheus in at {port}"


def _lets_prometheus_in(spec: Object, pod: _Pod, port: int | str | None) -> bool:
    return selects(spec["podSelector"], pod.labels) and any(
        {"namespaceSelector": {"matchLabels": MONITORING}} in rule.get("from", ())
        and port in (one["port"] for one in rule.get("ports", ()))
        for rule in spec.get("ingress", ())
    )


def _leads_to_names(spec: Object) -> bool:
    ports = [port for rule in spec.get("egress", ()) for port in rule.get("ports", ())]
    return spec["podSelector"] == {} and {"protocol": "UDP", "port": 53} in ports


def _probes(workload: Object, container: Object) -> Iterator[str]:
    ports = {port["name"] for port in container.get("ports", ())}
    for probe, path in PATHS.items():
        asked: Any = container.get(probe, {})
        for how in ("httpGet", "tcpSocket"):
            if how in asked and asked[how]["port"] not in ports:
                yield f"{probe} asks at {asked[how]['port']}, which is no port"
        if service_of(workload) and asked.get("httpGet", {}).get("path") != path:
            yield f"{probe} does not ask {path}"


def _listens(workload: Object, container: Object, objects: list[Object]) -> Iterator[str]:
    given = given_to(container, objects).plain
    if service_of(workload):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port, setting in LISTENS.items():
            if given.get(setting, "").rpartition(":")[2] != str(ports.get(port, "")):
                yield f"{setting} is {given.get(setting)}, and its port {ports.get(port)}"
    if label(workload, "name") == "webhost-origin":
        wanted = set(re.findall(r"\$\{(\w+)\}", TEMPLATE.read_text()))
        for name in sorted(wanted ^ {name for name in given if name.startswith("ORIGIN_")}):
            yield f"{name} is not both given and in {TEMPLATE.name}"


def _backends(objects: list[Object]) -> Iterator[str]:
    services = {
        it["metadata"]["name"]: {port["name"] for port in it["spec"]["ports"]}
        for it in of_kind(objects, "Service")
    }
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if backend["port"]["name"] not in services.get(backend["name"], ()):
                    yield f"{name_of(ingress)}: no Service {backend['name']} with this port"
