"""Which variables docker-compose.yml takes from `.env`. Pure.

Every setting of every service is one, by its own name, but for those that the file sets itself and
those that have no place in it. A setting that is not the same for all that read it has the
service's name before it. Beside these there are the file's own variables: passwords, and where it
publishes what.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from webhost_kit.process.reference import Variable, by_readers, settings_of, variables

from webhost_local.installation.bus_accounts import password_variable
from webhost_local.installation.postgres_roles import schema
from webhost_local.installation.services import OPERATOR, SERVICES

PER_SERVICE = ("RESPONSE_KEYS", "TELEMETRY_MASTER_KEYS")
"""Settings of several services, each with its own value, at least while a key is rotated."""

SET_BY_FILE = (
    *("DATABASE_URL", "NATS_URL", "LISTEN", "OPS_LISTEN", "TRUSTED_PROXIES"),
    *("ALLOW_PLAIN_POSTGRES", "ALLOW_PLAIN_NATS"),
)
"""Settings that follow from docker-compose.yml, where its network is one machine's own."""

LEFT_OUT = {
    "MIGRATE_AT_START": "the one-shot `database` migrates, with the owners' roles",
    "WEBHOST_CRASH_FILE": "for tests of the local stack",
    "NATS_REPLICAS": "there is one server",
    "KEYS_FILE": "a file: mount it, and set this, in an override file",
    "WEBHOST_TIERS_FILE": "a file: mount it, and set this, in an override file",
    "WEBHOST_PRICES_FILE": "a file: mount it, and set this, in an override file",
}
"""Settings that docker-compose.yml does not set, and why."""


@dataclass(frozen=True)
class Own:
    """A variable of the compose file's own. `value` is its default; a secret has none."""

    name: str
    meaning: str
    value: str | None = None


def own() -> Iterator[Own]:
    """Yield the compose file's own variables."""
    yield Own(
        "COMPOSE_PROJECT_NAME", "The name of the containers, volumes and networks.", "webhost"
    )
    yield Own(
        "WEBHOST_REGISTRY",
        "What stands before the images' names, with a slash at its end: a registry of your own.",
        "",
    )
    yield Own("WEBHOST_TAG", "The tag of the images.", "local")
    yield Own(
        "WEBHOST_PULL_POLICY",
        "`never` builds images that are missing; `missing` is for those of a registry of your own.",
        "never",
    )
    yield Own(
        "ORIGIN_PORT", "The port of the public origin, on 127.0.0.1; TLS ends before it.", "8787"
    )
    yield Own(
        "ORIGIN_TRUSTED_PROXY",
        "The address or network of what ends TLS, whose `X-Forwarded-For` says who the client is;"
        + " what runs on this machine has the first address of FRONT_SUBNET.",
        "172.31.250.1",
    )
    yield Own(
        "ORIGIN_CLIENT_CONNECTIONS",
        "How many requests of one client (of IPv6: of a /64 network) may be under way at once;"
        + " at most 65535.",
        "512",
    )
    yield Own("FRONT_SUBNET", "The network between the origin and the services.", "172.31.250.0/24")
    for service in SERVICES:
        yield Own(f"{prefix(service)}_REPLICAS", f"How many processes of {service} run.", "1")
    yield Own("ISSUER_PORT", "Profile local: the port of the development issuer.", "8788")
    yield Own("STORE_PORT", "Profile local: the port of the payment page.", "8789")
    yield Own("POSTGRES_PASSWORD", "The superuser's password: for the one-shot `database` alone.")
    for service in SERVICES:
        name = prefix(service)
        yield Own(f"POSTGRES_PASSWORD_OF_{name}", f"The password of {service}'s role.")
        yield Own(
            f"POSTGRES_PASSWORD_OF_{name}_OWNER",
            f"The password of the owner of {service}'s schema.",
        )
    for user in (*SERVICES, OPERATOR):
        yield Own(f"NATS_{password_variable(user)}", f"The password of {user} on the bus.")
    yield Own(
        "OPERATOR_TOKEN", "A token that OPERATOR_TOKENS names; for whoever calls the API with it."
    )


def prefix(service: str) -> str:
    """How a service is written in the name of a variable."""
    return schema(service).upper()


def name_of(service: str, setting: str) -> str:
    """The variable of `.env` that has a service's setting."""
    return f"{prefix(service)}_{setting}" if setting in PER_SERVICE else setting


def passed(service: str) -> Iterator[Variable]:
    """Yield the settings of a service that come from `.env`."""
    for variable in variables(settings_of(service)):
        if variable.name not in SET_BY_FILE and variable.name not in LEFT_OUT:
            yield variable


def grouped() -> dict[tuple[str, ...], list[tuple[str, Variable]]]:
    """The variables of `.env` that are settings, with their names there, by who reads them."""
    return by_readers(
        {
            service: [(name_of(service, it.name), it) for it in passed(service)]
            for service in SERVICES
        }
    )


def document(values: Mapping[str, str], *, head: str, present: Container[str] = frozenset()) -> str:
    """The text of an environment file with these values; what has none is commented out.

    What is `present` in another text is left out.
    """
    sections = [head]
    kept = [one for one in own() if one.name not in present]
    if kept:
        sections.append("# --- The compose file itself\n")
        sections += [_entry(one.name, one.meaning, values, one.value) for one in kept]
    for services, named in grouped().items():
        title = "every service" if len(services) == len(SERVICES) else ", ".join(services)
        if missing := [(name, one) for name, one in named if name not in present]:
            sections.append(f"\n# --- Settings of {title} (docs/configuration.md)\n")
            sections += [_entry(name, _meaning(one), values, None) for name, one in missing]
    return "\n".join(sections)


def mentioned(text: str) -> set[str]:
    """The variables of an environment file, with those that are commented out."""
    return set(re.findall(r"^#?([A-Z0-9_]+)=", text, re.MULTILINE))


def given_in(text: str) -> dict[str, str]:
    """The variables of an environment file that have a value, as it is written."""
    return dict(re.findall(r"^([A-Z0-9_]+)=(.+)$", text, re.MULTILINE))


def to_fill_in(values: Mapping[str, str]) -> list[str]:
    """The variables that a service does not start without, and that have no value."""
    return [
        name
        for named in grouped().values()
        for name, one in named
        if one.required and not values.get(name)
    ]


def _meaning(variable: Variable) -> str:
    if variable.required:
        return f"{variable.meaning} Required."
    return variable.meaning + (f" Default: {variable.default}." if variable.default else "")


def _entry(name: str, meaning: str, values: Mapping[str, str], default: str | None) -> str:
    value = values.get(name, default)
    assignment = f"#{name}=" if value is None else f"{name}={_quoted(value)}"
    return "\n".join([*_wrapped(meaning), assignment, ""])


def _quoted(value: str) -> str:
    # In single quotes nothing is replaced.
    return value if not set(value) & set(" #$\"'{}") else "'" + value.replace("'", "\\'") + "'"


def _wrapped(text: str, width: int = 98) -> Iterable[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, width, break_on_hyphens=False)]
