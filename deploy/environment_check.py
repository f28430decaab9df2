"""Every variable in the manifests is a setting of who gets it, and every setting is there.

A service's variables come from the ConfigMaps `webhost` and `webhost-<service>` (config/*.env of an
overlay), from its Secret, from its Secret of platform keys, and from its Deployment. Production's
config/*.env has a line for every setting; what keeps its default is a comment.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from webhost_contracts import platform_keys
from webhost_kit.process.migrate import MigrationSettings
from webhost_kit.process.reference import Variable, settings_of, variables
from webhost_kit.process.settings import CallTimeoutSettings
from webhost_local.installation.services import SERVICES

from deploy.rendering import K8S, Object, containers_of, name_of, of_kind, service_of

CONFIG = K8S / "overlays/production/config"

NOT_SETTINGS = {
    "SSL_CERT_FILE": "read by OpenSSL: which authorities are trusted",
}
"""Variables of services that no settings class reads, and why."""
NOT_IN_A_CLUSTER = {
    "WEBHOST_LOCAL_STACK": "takes every protection off",
    "WORKERS_CONNECT_TO": "for local stacks only",
    "WEBHOST_CRASH_FILE": "for tests only",
    "MIGRATE_AT_START": "Jobs migrate, with another role",
}
"""Settings that no manifest may have, and why."""


@cache
def read_by(service: str) -> dict[str, Variable]:
    """Return the variables that a service reads."""
    return {variable.name: variable for variable in variables(settings_of(service))}


def keys_of(service: str) -> set[str]:
    """Return which settings of a service stand in its file of platform keys."""
    kinds = platform_keys.KINDS.values()
    return {place.setting for kind in kinds for place in kind.lists if place.service == service}


@dataclass
class Given:
    """The variables of one service, by where they come from."""

    plain: dict[str, str] = field(default_factory=dict[str, str])
    secret: dict[str, tuple[str, str, bool]] = field(
        default_factory=dict[str, tuple[str, str, bool]]
    )
    shared: set[str] = field(default_factory=set[str])

    @property
    def names(self) -> set[str]:
        return {*self.plain, *self.secret}


def given_to(container: Object, objects: list[Object]) -> Given:
    """Return what a container finds in its environment. `secret`: Secret, key, whether optional."""
    found = Given()
    maps: dict[str, dict[str, str]] = {
        it["metadata"]["name"]: it.get("data") or {} for it in of_kind(objects, "ConfigMap")
    }
    for source in container.get("envFrom", ()):
        found.plain |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", ()):
        if "value" in entry:
            found.plain[entry["name"]] = entry["value"]
        elif (reference := entry["valueFrom"].get("secretKeyRef")) is not None:
            secret = (reference["name"], reference["key"], reference.get("optional", False))
            found.secret[entry["name"]] = secret
    return found


def longest_call_s(objects: list[Object]) -> float:
    """Return how long a call may take, which three services have to agree on."""
    default = str(CallTimeoutSettings.model_fields["longest_call_s"].default)
    said = {
        given_to(containers_of(it)[0], objects).plain.get("LONGEST_CALL_S", default)
        for it in of_kind(objects, "Deployment")
        if issubclass(settings_of(service_of(it) or "billing"), CallTimeoutSettings)
    }
    if len(said) != 1:
        raise RuntimeError(f"LONGEST_CALL_S is not the same everywhere: {said}")
    return float(said.pop())


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield what a rendered overlay gives to a service that it does not read, or not so."""
    seen: set[str] = set()
    for deployment in of_kind(objects, "Deployment"):
        service = service_of(deployment)
        if service is not None:
            seen.add(service)
            [container] = containers_of(deployment)
            found = given_to(container, objects)
            yield from (f"{name_of(deployment)}: {it}" for it in _service(service, found))
    for service in set(SERVICES) - seen:
        yield f"{service}: is not deployed"
    for job in of_kind(objects, "Job"):
        read = {name.upper() for name in MigrationSettings.model_fields}
        [container] = containers_of(job)
        for name in given_to(container, objects).names - read:
            yield f"{name_of(job)}: {name} is no setting of migrations"


def _service(service: str, found: Given) -> Iterator[str]:
    read = read_by(service)
    for name in sorted(found.names - read.keys() - NOT_SETTINGS.keys()):
        yield f"{name} is no setting of {service}"
    for name in sorted(found.names & NOT_IN_A_CLUSTER.keys()):
        yield f"{name}: {NOT_IN_A_CLUSTER[name]}"
    for name in sorted(found.names & keys_of(service)):
        yield f"{name} belongs into the file of keys"
    for name, value in found.plain.items():
        if name in read and read[name].secret:
            yield f"{name} is a secret, and no Secret's: {'*' * len(value)}"
    for name, (secret, key, optional) in found.secret.items():
        if (secret, key) != (f"webhost-{service}", name):
            yield f"{name} is of the Secret {secret}, {key}"
        if name in read and optional == read[name].required:
            yield f"{name} is {'both' if optional else 'neither'} optional and required"
    for name, variable in read.items():
        is_there = name in found.names | keys_of(service)
        if variable.required and not is_there:
            yield f"{name} is missing"


def unnamed(objects: list[Object], config: Path = CONFIG) -> Iterator[str]:
    """Yield the settings that production's config names not at all, or with another default."""
    everywhere = _commented(config / "every-service.env")
    for deployment in of_kind(objects, "Deployment"):
        service = service_of(deployment)
        if service is None:
            continue
        [container] = containers_of(deployment)
        commented = everywhere | _commented(config / f"{service}.env")
        named = given_to(container, objects).names | keys_of(service) | commented.keys()
        read = read_by(service)
        for name in sorted(read.keys() - named - NOT_IN_A_CLUSTER.keys()):
            yield f"{service}: {name} is named nowhere in {config.name}/"
        own = _commented(config / f"{service}.env")
        for name in sorted(own.keys() - read.keys()):
            yield f"{service}: {name} is no setting of it"
        for name, value in commented.items():
            if name in read and not _is_default(read[name], value):
                yield f"{service}: {name} is {read[name].default} by default, not {value}"


def _is_default(variable: Variable, value: str) -> bool:
    """Say so of what a comment shows; where there is no default, it shows what one may set."""
    return not variable.required and variable.default in (None, value)


def _commented(file: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.removeprefix("# ").partition("=")
        if line.startswith("# ") and equals and name.replace("_", "").isalnum() and name.isupper():
            found[name] = value
    return found
