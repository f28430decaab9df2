"""Each check of the manifests finds what it is there for."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from deploy import (
    connections_check,
    environment_check,
    policy_check,
    reference_check,
    rendering,
    schema_check,
)
from deploy.__main__ import main
from deploy.rendering import Object, pod_of
from tests.unit.deploy.overlays import rendered

Break = Callable[[dict[str, Object]], object]


def gateway(objects: dict[str, Object]) -> Object:
    return pod_of(objects["Deployment webhost-gateway"])


def container(objects: dict[str, Object]) -> Object:
    return gateway(objects)["containers"][0]


def rename(objects: dict[str, Object], old: str, new: str) -> None:
    [entry] = [entry for entry in container(objects)["env"] if entry["name"] == old]
    entry["name"] = new


def config(objects: dict[str, Object], service: str, **values: str) -> None:
    [data] = [
        it["data"]
        for name, it in objects.items()
        if name.startswith("ConfigMap") and it["metadata"]["name"].rpartition("-")[0] == service
    ]
    data.update(values)


SCHEMA: dict[str, tuple[Break, str]] = {
    "a field that a Deployment lacks": (
        lambda it: gateway(it).update(terminationGraceSeconds=1),
        "Deployment webhost-gateway: spec.template.spec: Additional properties are not allowed",
    ),
    "a field that a Cluster lacks": (
        lambda it: it["Cluster webhost-postgres"]["spec"]["postgresql"]["synchronous"].update(
            durability="required"
        ),
        "Cluster webhost-postgres: spec.postgresql.synchronous: Additional properties",
    ),
    "a value that a Cluster does not take": (
        lambda it: it["Cluster webhost-postgres"]["spec"]["postgresql"]["synchronous"].update(
            dataDurability="sometimes"
        ),
        "'sometimes' is not one of",
    ),
    "a number where a scaler wants text": (
        lambda it: it["ScaledObject webhost-billing"]["spec"]["triggers"][0]["metadata"].update(
            threshold=2
        ),
        "ScaledObject webhost-billing: spec.triggers.0.metadata.threshold: 2 is not of type",
    ),
    "a field of the metadata of a custom kind": (
        lambda it: it["ScaledObject webhost-billing"]["metadata"].update(label="x"),
        "ScaledObject webhost-billing: metadata: Additional properties",
    ),
    "a field that a PodMonitor lacks": (
        lambda it: it["PodMonitor webhost"]["spec"]["podMetricsEndpoints"][0].update(every="15s"),
        "PodMonitor webhost: spec.podMetricsEndpoints.0: Additional properties",
    ),
    "a time that a PodMonitor does not take": (
        lambda it: it["PodMonitor webhost"]["spec"]["podMetricsEndpoints"][0].update(
            interval="15 s"
        ),
        "PodMonitor webhost: spec.podMetricsEndpoints.0.interval: '15 s' does not match",
    ),
    "a field that a rule lacks": (
        lambda it: it["PrometheusRule webhost"]["spec"]["groups"][0]["rules"][0].update(level="x"),
        "PrometheusRule webhost: spec.groups.0.rules.0: Additional properties",
    ),
    "a rule without an expression": (
        lambda it: it["PrometheusRule webhost"]["spec"]["groups"][0]["rules"][0].pop("expr"),
        "PrometheusRule webhost: spec.groups.0.rules.0: 'expr' is a required property",
    ),
    "a kind without a schema": (
        lambda it: it["Service webhost-api"].update(kind="Servis"),
        "Servis webhost-api: no schema for v1",
    ),
}
POLICY: dict[str, tuple[Break, str]] = {
    "no probe": (lambda it: container(it).pop("readinessProbe"), "has no readinessProbe"),
    "latest": (
        lambda it: container(it).update(image="webhost-gateway:latest"),
        "image webhost-gateway:latest is not of one version",
    ),
    "no tag": (
        lambda it: container(it).update(image="host:5000/webhost-gateway"),
        "image host:5000/webhost-gateway is not of one version",
    ),
    "another version": (
        lambda it: container(it).update(image="webhost-gateway:0.0.9"),
        "image webhost-gateway:0.0.9 is not of version",
    ),
    "root": (lambda it: gateway(it)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "a writable root": (
        lambda it: container(it)["securityContext"].update(readOnlyRootFilesystem=False),
        "may write to its root file system",
    ),
    "more privileges": (
        lambda it: container(it)["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    "a capability": (
        lambda it: container(it)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "keeps capabilities",
    ),
    "no seccomp": (
        lambda it: gateway(it)["securityContext"].pop("seccompProfile"),
        "has no seccomp profile",
    ),
    "no limit": (lambda it: container(it)["resources"].pop("limits"), "has no limits of memory"),
    "a token": (
        lambda it: gateway(it).pop("automountServiceAccountToken"),
        "is given a token for the Kubernetes API",
    ),
    "an account with a token": (
        lambda it: it["ServiceAccount webhost-gateway"].pop("automountServiceAccountToken"),
        "has no ServiceAccount without a token",
    ),
    "a path of the node": (
        lambda it: gateway(it)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "is a path of the node",
    ),
    "no budget": (
        lambda it: it.pop("PodDisruptionBudget webhost-gateway"),
        "has 0 PodDisruptionBudgets",
    ),
    "one less during a rollout": (
        lambda it: it["Deployment webhost-gateway"]["spec"]["strategy"]["rollingUpdate"].update(
            maxUnavailable=1
        ),
        "takes processes away before new ones are ready",
    ),
    "no pause before the end": (
        lambda it: container(it).pop("lifecycle"),
        "stops while requests are still sent to it",
    ),
    "all on one node": (
        lambda it: gateway(it).pop("topologySpreadConstraints"),
        "may have all its processes on one node",
    ),
    "spread at any price": (
        lambda it: gateway(it)["topologySpreadConstraints"][0].update(
            whenUnsatisfiable="DoNotSchedule"
        ),
        "waits for a node that takes no Pods",
    ),
    "nothing denied": (
        lambda it: it["NetworkPolicy default-deny"]["spec"].update(egress=[{}]),
        "no NetworkPolicy that denies everything by default",
    ),
    "a Secret": (
        lambda it: it.update({"x": {"kind": "Secret", "metadata": {"name": "x"}}}),
        "Secret x: a Secret has no place in the tree",
    ),
    "an address with a password": (
        lambda it: container(it)["env"].append({"name": "A", "value": "tls://api:hunter22@nats"}),
        "holds a secret",
    ),
    "a password in a file": (
        lambda it: config(it, "webhost-nats", **{"nats.conf": 'password: "correct-horse"'}),
        "holds a secret",
    ),
}
ENVIRONMENT: dict[str, tuple[Break, str]] = {
    "a renamed variable": (
        lambda it: rename(it, "OPS_LISTEN", "OPERATIONS_LISTEN"),
        "OPERATIONS_LISTEN is no setting of gateway",
    ),
    "a required one that is missing": (
        lambda it: rename(it, "OPS_LISTEN", "LISTEN"),
        "OPS_LISTEN is missing",
    ),
    "a typing error in a file": (
        lambda it: config(it, "webhost-api", KEEP_DEPLOYMENT="5"),
        "KEEP_DEPLOYMENT is no setting of api",
    ),
    "another service's setting": (
        lambda it: config(it, "webhost-billing", JWT_AUDIENCE="webhost"),
        "JWT_AUDIENCE is no setting of billing",
    ),
    "a secret in a file": (
        lambda it: config(it, "webhost-gateway", DELEGATION_SECRETS="back-end:abc"),
        "DELEGATION_SECRETS is a secret, and no Secret's",
    ),
    "another service's Secret": (
        lambda it: container(it)["env"][-1]["valueFrom"]["secretKeyRef"].update(name="webhost-api"),
        "is of the Secret webhost-api",
    ),
    "the local stack": (
        lambda it: config(it, "webhost-api", WEBHOST_LOCAL_STACK="true"),
        "WEBHOST_LOCAL_STACK: takes every protection off",
    ),
    "a service that is not deployed": (
        lambda it: it.pop("Deployment webhost-billing"),
        "billing: is not deployed",
    ),
}


CONNECTIONS: dict[str, tuple[Break, str]] = {
    "more gateways": (
        lambda it: it["ScaledObject webhost-gateway"]["spec"].update(maxReplicaCount=30),
        "Cluster webhost-postgres: max_connections is 700, and 1170 may be opened",
    ),
    "fewer connections": (
        lambda it: it["Cluster webhost-postgres"]["spec"]["postgresql"]["parameters"].update(
            max_connections="400"
        ),
        "max_connections is 400, and 642 may be opened",
    ),
}


REFERENCES: dict[str, tuple[Break, str]] = {
    "a Service of nobody": (
        lambda it: it["Service webhost-api"]["spec"].update(selector={"app": "api"}),
        "Service webhost-api: selects no Pod",
    ),
    "a port that nobody has": (
        lambda it: it["Service webhost-api"]["spec"]["ports"][0].update(targetPort="web"),
        "Service webhost-api: a Pod of these has no port web",
    ),
    "a policy's port": (
        lambda it: it["NetworkPolicy scraping"]["spec"]["ingress"][0].update(
            ports=[{"port": "metrics"}]
        ),
        "NetworkPolicy scraping: a Pod of these has no port metrics",
    ),
    "a policy's port on the other side": (
        lambda it: it["NetworkPolicy to-nats"]["spec"]["egress"][0].update(ports=[{"port": "bus"}]),
        "NetworkPolicy to-nats: a Pod of these has no port bus",
    ),
    "a policy's label": (
        lambda it: it["NetworkPolicy scraping"]["spec"].update(
            podSelector={"matchLabels": {"app.kubernetes.io/component": "services"}}
        ),
        "NetworkPolicy scraping: no Pod has the label app.kubernetes.io/component=services",
    ),
    "a peer's label": (
        lambda it: it["NetworkPolicy public"]["spec"]["ingress"][0]["from"][0].update(
            podSelector={"matchLabels": {"app.kubernetes.io/name": "origin"}}
        ),
        "NetworkPolicy public: no Pod has the label app.kubernetes.io/name=origin",
    ),
    "names by TCP alone": (
        lambda it: it["NetworkPolicy dns"]["spec"]["egress"][0]["ports"].pop(0),
        "no NetworkPolicy lets every Pod ask for names",
    ),
    "a probe's port": (
        lambda it: container(it)["livenessProbe"]["httpGet"].update(port="operations"),
        "livenessProbe asks at operations, which is no port",
    ),
    "a probe's path": (
        lambda it: container(it)["readinessProbe"]["httpGet"].update(path="/livez"),
        "Deployment webhost-gateway: readinessProbe does not ask /readyz",
    ),
    "another port than it listens at": (
        lambda it: container(it)["ports"][-1].update(containerPort=8081),
        "Deployment webhost-gateway: ",
    ),
    "a scaler of nobody": (
        lambda it: it["ScaledObject webhost-billing"]["spec"]["scaleTargetRef"].update(name="b"),
        "ScaledObject webhost-billing: there is no Deployment b",
    ),
    "a monitor of nobody": (
        lambda it: it["PodMonitor webhost"]["spec"].update(
            selector={"matchLabels": {"app.kubernetes.io/component": "services"}}
        ),
        "PodMonitor webhost: selects no Pod",
    ),
    "a monitor's port": (
        lambda it: it["PodMonitor webhost"]["spec"]["podMetricsEndpoints"][0].update(port="9090"),
        "PodMonitor webhost: a Pod of these has no port 9090",
    ),
    "a monitor's job": (
        lambda it: it["PodMonitor webhost"]["spec"].update(jobLabel="app"),
        "PodMonitor webhost: a Pod of these has no name for its job",
    ),
    "a monitor that is kept out": (
        lambda it: it.pop("NetworkPolicy scraping"),
        "PodMonitor webhost: no NetworkPolicy lets Prometheus in at ops",
    ),
    "a backend that is not there": (
        lambda it: it["Ingress webhost-origin"]["spec"]["rules"][0]["http"]["paths"][0]["backend"][
            "service"
        ].update(name="origin"),
        "Ingress webhost-origin: no Service origin",
    ),
    "a variable of the origin": (
        lambda it: config(it, "webhost-origin", ORIGIN_TRUSTED_PROXIES="10.0.0.0/8"),
        "ORIGIN_TRUSTED_PROXIES is not both given and in nginx.conf.template",
    ),
}


WATCHED = "production, watched by Prometheus' operator"


def broken(break_it: Break, variant: str = WATCHED) -> list[Object]:
    objects = {f"{it['kind']} {it['metadata']['name']}": it for it in deepcopy(rendered(variant))}
    break_it(objects)
    return list(objects.values())


@pytest.mark.parametrize(("break_it", "problem"), SCHEMA.values(), ids=SCHEMA)
def test_the_schemas_refuse(break_it: Break, problem: str) -> None:
    assert any(problem in it for it in schema_check.problems(broken(break_it)))


@pytest.mark.parametrize(("break_it", "problem"), POLICY.values(), ids=POLICY)
def test_the_policy_refuses(break_it: Break, problem: str) -> None:
    assert any(problem in it for it in policy_check.problems(broken(break_it)))


@pytest.mark.parametrize(("break_it", "problem"), ENVIRONMENT.values(), ids=ENVIRONMENT)
def test_the_variables_are_the_settings(break_it: Break, problem: str) -> None:
    assert any(problem in it for it in environment_check.problems(broken(break_it)))


@pytest.mark.parametrize(("break_it", "problem"), REFERENCES.values(), ids=REFERENCES)
def test_what_leads_nowhere_is_found(break_it: Break, problem: str) -> None:
    assert any(problem in it for it in reference_check.problems(broken(break_it)))


@pytest.mark.parametrize(("break_it", "problem"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_connections_are_counted(break_it: Break, problem: str) -> None:
    assert any(problem in it for it in connections_check.problems(broken(break_it, "production")))


def test_a_process_has_time_for_its_longest_call() -> None:
    objects = rendered("production")
    assert list(policy_check.drain_problems(objects, 60)) == []
    assert list(policy_check.drain_problems(objects, 90)) == [
        "Deployment webhost-gateway: is ended after 90 s, and needs 105 s",
        "Deployment webhost-origin: is ended after 90 s, and needs 105 s",
    ]


def test_a_setting_that_production_does_not_name_is_found(tmp_path: Path) -> None:
    for file in environment_check.CONFIG.iterdir():
        text = file.read_text().replace("# HEARTBEAT_S=15.0\n", "")
        (tmp_path / file.name).write_text(
            text.replace("READS_PER_MINUTE=6000", "READS_PER_MINUTE=7")
        )
    assert list(environment_check.unnamed(rendered("production"), tmp_path)) == [
        "api: READS_PER_MINUTE is 6000 by default, not 7",
        f"gateway: HEARTBEAT_S is named nowhere in {tmp_path.name}/",
    ]


def test_what_is_to_be_filled_in_is_said() -> None:
    found = set(policy_check.left_over(rendered("production")))
    assert "Deployment webhost-api: registry.example.com is an example" in found
    assert "Ingress webhost-origin: agents.example.com is an example" in found
    assert {it.rpartition(": ")[2] for it in found if it.startswith("ConfigMap")} == {
        f"{name} is empty"
        for name in (
            "WEBHOST_INSTALLATION_ID",
            "JWT_ISSUER",
            "JWT_AUDIENCE",
            "CLOUDFLARE_ACCOUNT_ID",
            "CONTROL_PLANE_TELEMETRY_REPORT_URL",
            "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN",
            "CLOUDFLARE_ZONE_ID",
            "ORIGIN_TRUSTED_PROXY",
        )
    }
    elsewhere = policy_check.left_over(rendered("production, Postgres elsewhere"))
    assert "NetworkPolicy to-postgres: 203.0.113. is an example" in elsewhere


@pytest.mark.parametrize(
    ("network", "is_wide"),
    [
        ("10.0.0.0/8", True),
        ("10.1.2.3/8", True),
        ("0.0.0.0/0", True),
        ("127.0.0.1,100.64.0.0/10", True),
        ("::/0", True),
        ("10.244.0.0/16", False),
        ("10.244.7.9", False),
        ("127.0.0.1, fd00:1:2::/48", False),
        ("", False),
    ],
)
@pytest.mark.parametrize(
    ("whose", "name"),
    [("webhost-origin", "ORIGIN_TRUSTED_PROXY"), ("webhost-gateway", "TRUSTED_PROXIES")],
)
def test_a_wide_network_of_trusted_proxies_is_warned_of(
    whose: str, name: str, network: str, is_wide: bool
) -> None:
    objects = broken(lambda it: config(it, whose, **{name: network}))
    found = [it for it in policy_check.trusted_widely(objects) if f"ConfigMap {whose}-" in it]
    assert [f": {name} trusts all of " in it for it in found] == [True] * is_wide


def test_a_warning_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered("local")
    monkeypatch.setattr(rendering, "kustomize", lambda path: objects)
    with pytest.raises(SystemExit) as ended:
        main(["check", "overlays/local"])
    warnings = capsys.readouterr().err
    assert "warning: ConfigMap webhost-origin-" in warnings
    assert "trusts" not in str(ended.value)
