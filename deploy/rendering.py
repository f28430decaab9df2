"""The manifests as an installation applies them: overlays, rendered by the kustomize in kubectl."""

import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parent / "k8s"

Object = dict[str, Any]
"""One Kubernetes object, as it is written."""

_PRODUCTION = "overlays/production/kustomization.yaml"
_POSTGRES = "  - ../../components/postgres\n"
MONITORED = ("services", "nats", "postgres", "certificates")
"""What has a component for Prometheus' operator."""
VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "local": {},
    "production": {},
    "production, the gateway's database apart": {
        _PRODUCTION: {
            "  # - ../../components/gateway-postgres\n": "  - ../../components/gateway-postgres\n",
            "  # - ../../components/operator\n": "  - ../../components/operator\n",
        }
    },
    "production, watched by Prometheus' operator": {
        _PRODUCTION: {
            f"  # - {component}\n": f"  - {component}\n"
            for component in (
                "../../components/gateway-postgres",
                *(f"../../components/monitoring/{of}" for of in MONITORED),
            )
        }
    },
    "production, Postgres elsewhere": {
        _PRODUCTION: {
            _POSTGRES: "",
            "  # - external-postgres.yaml\n": "  - external-postgres.yaml\n",
        }
    },
}
"""What is checked, by name: an overlay, the first word of it, with these replacements in files."""


def render(variant: str) -> list[Object]:
    """Return the objects of a variant. Raises RuntimeError with what kustomize says."""
    overlay = Path("overlays", variant.partition(",")[0])
    replacements = VARIANTS[variant]
    if not replacements:
        return kustomize(K8S / overlay)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "k8s")
        shutil.copytree(K8S, copy)
        for name, changes in replacements.items():
            text = (copy / name).read_text()
            for old, new in changes.items():
                if old not in text:
                    raise RuntimeError(f"{name} has no line {old.strip()!r}")
                text = text.replace(old, new)
            (copy / name).write_text(text)
        return kustomize(copy / overlay)


def kustomize(directory: Path) -> list[Object]:
    """Return the objects of a folder. Raises RuntimeError with what kustomize says."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    run = subprocess.run(  # noqa: S603
        [kubectl, "kustomize", directory], capture_output=True, text=True, check=False
    )
    if run.returncode != 0 or run.stderr:
        raise RuntimeError(f"kustomize {directory.name}: {run.stderr.strip()}")
    return [found for found in yaml.load_all(run.stdout, yaml.CSafeLoader) if found]


def name_of(found: Object) -> str:
    """Return how a problem names an object."""
    return f"{found['kind']} {found['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [found for found in objects if found["kind"] in kinds]


def texts(value: Any) -> Iterator[str]:
    """Yield every line of text in an object."""
    if isinstance(value, str):
        yield from value.splitlines()
    elif isinstance(value, dict):
        for one in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            yield from texts(one)


def workloads(objects: list[Object]) -> list[Object]:
    """Return what makes Pods of our own."""
    return of_kind(objects, "Deployment", "StatefulSet", "Job", "Pod")


def template_of(workload: Object) -> Object:
    """Return what its Pods are made by; a Pod by itself."""
    return workload if workload["kind"] == "Pod" else workload["spec"]["template"]


def pod_of(workload: Object) -> Object:
    """Return the spec of its Pods."""
    return template_of(workload)["spec"]


def containers_of(workload: Object) -> list[Object]:
    """Return all containers of its Pods."""
    pod = pod_of(workload)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def label(workload: Object, name: str) -> str | None:
    """Return a label of its Pods."""
    return template_of(workload)["metadata"]["labels"].get(f"app.kubernetes.io/{name}")


def service_of(workload: Object) -> str | None:
    """Return which of our services its Pods run, None where they are something else."""
    name = str(label(workload, "name"))
    return name.removeprefix("webhost-") if label(workload, "component") == "service" else None
