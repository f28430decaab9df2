"""What every Pod of ours has to have, whatever it runs: rules that no schema states."""

import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

from webhost_kit.process.service import GRACE_S

from deploy.rendering import (
    Object,
    containers_of,
    label,
    name_of,
    of_kind,
    pod_of,
    texts,
    workloads,
)

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
CLOSING_S = 10
"""What a process may take to close, once the last request has ended."""
PASSES_CALLS = ("webhost-gateway", "webhost-origin")
"""Through what the longest call goes."""
TRUSTED = ("ORIGIN_TRUSTED_PROXY", "TRUSTED_PROXIES")
"""Whose word on the client's address is believed."""
WIDEST = {4: 16, 6: 48}
"""The shortest prefix that a network of Pods may have, by version of IP: a shorter one has nodes,
and whatever else is private, in it too."""
EXAMPLES = ("registry.example.com", "agents.example.com", "203.0.113.")
"""What the overlays say for something of an installation's own."""

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_ADDRESS_WITH_PASSWORD = re.compile(r"://[^\s:@/\"]+:(?!\$\()[^\s@/\"]+@")
_PASSWORD = re.compile(r"(?i)(?:password|token|secret)[\s\"':=]{1,4}[\w+/=-]{8,}[\s\"',}]*$")


def version() -> str:
    """Return the version of the images."""
    return str(tomllib.loads(_PYPROJECT.read_text())["project"]["version"])


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield what breaks a rule."""
    for secret in of_kind(objects, "Secret"):
        yield f"{name_of(secret)}: a Secret has no place in the tree"
    for found in objects:
        for text in texts(found):
            if _ADDRESS_WITH_PASSWORD.search(text) or _PASSWORD.search(text):
                yield f"{name_of(found)}: holds a secret"
    yield from _Namespace(objects).problems()
    for workload in workloads(objects):
        about = name_of(workload)
        yield from (f"{about}: {problem}" for problem in _pod(workload, objects))
        for container in containers_of(workload):
            its = f"{about}: container {container['name']}"
            yield from (f"{its}: {problem}" for problem in _container(container))
            yield from (f"{its}: {problem}" for problem in _runs(workload["kind"], container))
    for deployment in of_kind(objects, "Deployment"):
        yield from (f"{name_of(deployment)}: {problem}" for problem in _rollout(deployment))
    for job in of_kind(objects, "Job"):
        if not job["metadata"]["name"].endswith("-" + version().replace(".", "-")):
            yield f"{name_of(job)}: is not named after version {version()}"


class _Namespace:
    """What goes for the objects of one namespace together."""

    def __init__(self, objects: list[Object]) -> None:
        self._objects = objects

    def problems(self) -> Iterator[str]:
        """Yield what is missing beside the workloads."""
        denials = [
            policy
            for policy in of_kind(self._objects, "NetworkPolicy")
            if policy["spec"].get("podSelector") == {}
            and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not {"ingress", "egress"} & policy["spec"].keys()
        ]
        if not denials:
            yield "there is no NetworkPolicy that denies everything by default"
        budgets = [
            budget["spec"]["selector"]["matchLabels"]
            for budget in of_kind(self._objects, "PodDisruptionBudget")
        ]
        for workload in of_kind(self._objects, "Deployment", "StatefulSet"):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            covering = [budget for budget in budgets if budget.items() <= labels.items()]
            if len(covering) != 1:
                yield f"{name_of(workload)}: has {len(covering)} PodDisruptionBudgets"


def _pod(workload: Object, objects: list[Object]) -> Iterator[str]:
    pod = pod_of(workload)
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "is given a token for the Kubernetes API"
    if pod.get("enableServiceLinks") is not False:
        yield "is given variables of other Services"
    accounts = {found["metadata"]["name"]: found for found in of_kind(objects, "ServiceAccount")}
    account = accounts.get(pod.get("serviceAccountName", "default"))
    if account is None or account.get("automountServiceAccountToken") is not False:
        yield "has no ServiceAccount without a token"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"has {name}"
    for volume in pod.get("volumes", ()):
        if "hostPath" in volume:
            yield f"volume {volume['name']}: is a path of the node"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']}: has no size"


def _container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield "may run as root"
    resources = container.get("resources", {})
    # A limit on processors would only slow a process down that waits for nobody.
    for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
        if name not in resources.get(kind, {}):
            yield f"has no {kind} of {name}"
    for mount in container.get("volumeMounts", ()):
        if "subPath" in mount:
            yield f"mounts {mount['name']} by subPath, which does not follow changes"


def _runs(kind: str, container: Object) -> Iterator[str]:
    """Yield what is wrong with its image and its probes."""
    image, _, tag = container["image"].rpartition(":")
    if not image or "/" in tag or tag == "latest":
        yield f"image {container['image']} is not of one version"
    elif "webhost-" in image and tag != version():
        yield f"image {container['image']} is not of version {version()}"
    for probe in PROBES:
        if kind not in ("Job", "Pod") and probe not in container:
            yield f"has no {probe}"


def _rollout(deployment: Object) -> Iterator[str]:
    rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
    if rolling.get("maxUnavailable") != 0:
        yield "takes processes away before new ones are ready"
    spread = pod_of(deployment).get("topologySpreadConstraints", ())
    if "kubernetes.io/hostname" not in {one["topologyKey"] for one in spread}:
        yield "may have all its processes on one node"
    # A node that is cordoned, tainted or full counts as one with room: better uneven than Pending.
    if "DoNotSchedule" in {one["whenUnsatisfiable"] for one in spread}:
        yield "waits for a node that takes no Pods"
    [container] = pod_of(deployment)["containers"]
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    takes_requests = any(port["name"] == "http" for port in container["ports"])
    if takes_requests and not pause:
        yield "stops while requests are still sent to it"


def left_over(objects: list[Object]) -> Iterator[str]:
    """Yield what an installation has to set or to replace."""
    for found in objects:
        if found["kind"] == "ConfigMap":
            data: dict[str, str] = found.get("data") or {}
            for name, value in data.items():
                if not value:
                    yield f"{name_of(found)}: {name} is empty"
        for text in texts(found):
            yield from (f"{name_of(found)}: {it} is an example" for it in EXAMPLES if it in text)


def trusted_widely(objects: list[Object]) -> Iterator[str]:
    """Yield the networks that say who the client is, and have more than proxies in them."""
    for found in of_kind(objects, "ConfigMap"):
        data: dict[str, str] = found.get("data") or {}
        for name in TRUSTED:
            for network in filter(None, data.get(name, "").split(",")):
                if _is_wide(network.strip()):
                    yield (
                        f"{name_of(found)}: {name} trusts all of {network.strip()}: who is in it,"
                        " or seems to be, chooses the address that limits are for"
                    )


def _is_wide(network: str) -> bool:
    try:
        parsed = ip_network(network, strict=False)
    except ValueError:
        return False
    return parsed.prefixlen < WIDEST[parsed.version]


def drain_problems(objects: list[Object], longest_call_s: float) -> Iterator[str]:
    """Yield what is ended before it has finished: calls take up to `longest_call_s`."""
    for deployment in of_kind(objects, "Deployment"):
        pod = pod_of(deployment)
        [container] = pod["containers"]
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = pause + needed_s(label(deployment, "name"), longest_call_s)
        given = pod.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield f"{name_of(deployment)}: is ended after {given} s, and needs {needed:g} s"


def needed_s(name: str | None, longest_call_s: float) -> float:
    """Return how long what has this name may take to end, once nothing more is sent to it."""
    return (max(GRACE_S, longest_call_s) if name in PASSES_CALLS else GRACE_S) + CLOSING_S
