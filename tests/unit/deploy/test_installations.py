"""What an installation is made of fits together: its variables, its Secrets, its networks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from webhost_kit.process.reference import settings_of
from webhost_local.installation.identities import KEY_HOLDERS
from webhost_local.installation.services import SERVICES

from deploy.environment_check import given_to, keys_of, longest_call_s
from deploy.reference_check import TEMPLATE
from deploy.rendering import (
    K8S,
    VARIANTS,
    Object,
    containers_of,
    of_kind,
    pod_of,
    service_of,
    workloads,
)
from deploy.secrets import Places, secrets
from tests.unit.deploy.overlays import rendered

# Whoever installs sets these, which are empty in production's config/.
CHOSEN = {
    "WEBHOST_INSTALLATION_ID": "ins_0123456789abcdef",
    "JWT_ISSUER": "https://issuer.example.com",
    "JWT_AUDIENCE": "webhost",
    "CLOUDFLARE_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
    "CONTROL_PLANE_TELEMETRY_REPORT_URL": "https://agents.example.com/v1/telemetry/report",
    "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "workers.example.com",
    "CLOUDFLARE_ZONE_ID": "0123456789abcdef0123456789abcdef",
    "CLOUDFLARE_WORKERS_DEV_SUBDOMAIN": "example",
}
# What others give, or make: certificates.
OF_OTHERS = {
    "webhost-nats-tls": "an authority of yours",
    "webhost-origin-tls": "an authority that browsers know",
    "webhost-postgres-ca": "CloudNativePG",
    "webhost-gateway-postgres-ca": "CloudNativePG",
}


def made(places: Places) -> dict[str, dict[str, str]]:
    return {it["metadata"]["name"]: it["stringData"] for it in secrets(places)}


@pytest.mark.parametrize(
    ("overlay", "places"),
    [("production", Places()), ("local", Places(nats="nats://{}@webhost-nats:4222"))],
)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_it_is_given(
    service: str, overlay: str, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "from-the-dashboard")
    made_secrets = made(places)
    [deployment] = [it for it in workloads(rendered(overlay)) if service_of(it) == service]
    found = given_to(containers_of(deployment)[0], rendered(overlay))
    environment = found.plain | {
        name: made_secrets[secret][key]
        for name, (secret, key, optional) in found.secret.items()
        if not optional
    }
    keys = tmp_path / "keys.env"
    if service in KEY_HOLDERS:
        keys.write_text(made_secrets[f"webhost-{service}-keys"]["keys.env"])
        assert environment["KEYS_FILE"] == "/etc/webhost/keys/keys.env"
        environment["KEYS_FILE"] = str(keys)
    for name, value in environment.items():
        monkeypatch.setenv(name, value or CHOSEN[name])

    settings: Any = settings_of(service)()

    assert not settings.webhost_local_stack
    assert settings.opt_outs() == (["ALLOW_PLAIN_NATS"] if overlay == "local" else [])
    assert keys_of(service) <= {name.upper() for name in type(settings).model_fields}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_secret_is_made_or_others(variant: str) -> None:
    named = set(_references(rendered(variant)))
    made_secrets = made(Places())
    assert {secret for secret, _ in named} <= made_secrets.keys() | OF_OTHERS.keys()
    given = {"CLOUDFLARE_API_TOKEN", "DELEGATION_SECRETS", "OTEL_EXPORTER_OTLP_HEADERS"}
    unknown = {
        (secret, key)
        for secret, key in named
        if key is not None and secret in made_secrets and key not in made_secrets[secret]
    }
    assert {key for _, key in unknown if not str(key).startswith("LEMONSQUEEZY_")} == given


def test_no_secret_is_made_that_nobody_needs() -> None:
    needed = {secret for variant in VARIANTS for secret, _ in _references(rendered(variant))}
    assert made(Places()).keys() <= needed


def test_a_secret_of_one_service_is_in_no_other() -> None:
    for workload in workloads(rendered("production")):
        own = f"{workload['metadata']['name']}".replace("webhost-migrate-", "webhost-")
        for secret, _ in _references([workload]):
            assert own.startswith(secret.removesuffix("-migrations").removesuffix("-keys")) or (
                secret in OF_OTHERS
            )


def test_streams_are_on_as_many_servers_as_there_are() -> None:
    for overlay, replicas in (("production", "3"), ("local", None)):
        objects = rendered(overlay)
        [nats] = of_kind(objects, "StatefulSet")
        assert nats["spec"]["replicas"] == int(replicas or 1)
        for service in ("api", "deployer", "billing"):
            [deployment] = [it for it in workloads(objects) if service_of(it) == service]
            plain = given_to(containers_of(deployment)[0], objects).plain
            assert plain.get("NATS_REPLICAS") == replicas


def test_what_was_acknowledged_is_on_several_disks() -> None:
    objects = rendered("production, the gateway's database apart")
    for cluster in of_kind(objects, "Cluster"):
        assert cluster["spec"]["instances"] == 3
        assert cluster["spec"]["postgresql"]["synchronous"] == {
            "method": "any",
            "number": 1,
            "dataDurability": "required",
        }
    for overlay in ("production", "local"):
        [nats] = [
            it["data"]["nats.conf"]
            for it in of_kind(rendered(overlay), "ConfigMap")
            if "nats.conf" in it.get("data", {})
        ]
        assert "\n  sync_interval: always\n" in nats


def test_streams_pass_the_ingress_and_one_gateway_goes_at_a_time() -> None:
    objects = rendered("production")
    [ingress] = of_kind(objects, "Ingress")
    assert ingress["spec"]["ingressClassName"] == "traefik"
    # No middleware: those are what buffers, bounds and repeats.
    assert ingress["metadata"]["annotations"] == {
        "traefik.ingress.kubernetes.io/router.entrypoints": "websecure",
        "traefik.ingress.kubernetes.io/router.tls": "true",
    }
    values = yaml.safe_load((K8S / "overlays/production/traefik-values.yaml").read_text())
    given = dict(it.removeprefix("--").split("=") for it in values["additionalArguments"])
    entry = "entryPoints.websecure.transport"
    assert given.keys() == {
        f"{entry}.respondingTimeouts.readTimeout",
        f"{entry}.lifeCycle.requestAcceptGraceTimeout",
        f"{entry}.lifeCycle.graceTimeOut",
        "serversTransport.forwardingTimeouts.idleConnTimeout",
    }
    taking, ending = (
        _seconds(given[f"{entry}.lifeCycle.{name}"])
        for name in ("requestAcceptGraceTimeout", "graceTimeOut")
    )
    assert ending > longest_call_s(objects)
    assert values["deployment"]["terminationGracePeriodSeconds"] >= taking + ending
    [kept] = re.findall(r"keepalive_timeout (\w+);", TEMPLATE.read_text())
    assert _seconds(given["serversTransport.forwardingTimeouts.idleConnTimeout"]) < _seconds(kept)
    assert values["service"]["spec"] == {"externalTrafficPolicy": "Local"}
    budgets = {it["metadata"]["name"]: it["spec"] for it in of_kind(objects, "PodDisruptionBudget")}
    assert budgets["webhost-gateway"]["maxUnavailable"] == 1


def _seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def _references(objects: list[Object]) -> Iterator[tuple[str, str | None]]:
    """Every Secret that is named, with the key where one is."""
    for workload in workloads(objects):
        for container in containers_of(workload):
            for entry in container.get("env", ()):
                if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                    yield reference["name"], reference["key"]
        for volume in pod_of(workload).get("volumes", ()):
            if "secret" in volume:
                yield volume["secret"]["secretName"], None
            for source in volume.get("projected", {}).get("sources", ()):
                if "secret" in source:
                    yield source["secret"]["name"], None
    for cluster in of_kind(objects, "Cluster"):
        for role in cluster["spec"]["managed"]["roles"]:
            yield role["passwordSecret"]["name"], "password"
    for ingress in of_kind(objects, "Ingress"):
        for tls in ingress["spec"]["tls"]:
            yield tls["secretName"], None
