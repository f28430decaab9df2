"""`python -m deploy secrets` prints the Secrets of an installation: new passwords, new keys.

To be piped into `kubectl create --namespace webhost -f -`. The next time they are others, unless
`--existing` names those that are there: then passwords and keys are these, and only the addresses
in DSNs are those that are asked for. What somebody has given you is not made: certificates, and
what LemonSqueezy needs; CLOUDFLARE_API_TOKEN is taken from the environment.
"""

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe

import yaml
from webhost_local.installation.bus_accounts import password_variable
from webhost_local.installation.identities import KEY_HOLDERS, Identities
from webhost_local.installation.postgres_roles import DATABASE, owner, role
from webhost_local.installation.services import OPERATOR, SERVICES

from deploy.rendering import Object

Values = Mapping[str, Mapping[str, str]]
"""What is in Secrets, by their names."""

_ADDRESSES = ("DATABASE_URL", "MIGRATIONS_DATABASE_URL", "NATS_URL")
"""Made of passwords, which are in Secrets by themselves."""
_IN_THE_CLUSTER = "sslmode=verify-full&sslrootcert=/etc/webhost/trust/postgres.crt"
_ELSEWHERE = "sslmode=verify-full&sslrootcert=/etc/webhost/trust/ca.crt"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where Postgres and NATS are. The parameters belong to every DSN."""

    nats: str = "tls://{}@webhost-nats:4222"
    postgres: str = "webhost-postgres-rw:5432"
    gateway_postgres: str | None = None
    postgres_parameters: str = _IN_THE_CLUSTER

    def dsn(self, service: str, user: str, password: str) -> str:
        """Return the DSN of a role of this service's."""
        own, parameters = self.postgres, self.postgres_parameters
        if service == "gateway" and self.gateway_postgres is not None:
            own = self.gateway_postgres
            parameters = parameters.replace("/postgres.crt", "/gateway-postgres.crt")
        return f"postgresql://{user}:{password}@{own}/{DATABASE}?{parameters}"


def secrets(places: Places, existing: Values | None = None) -> Iterator[Object]:
    """Yield every Secret that the manifests name, certificates aside."""
    existing = existing or {}
    for secret in _made(Identities(), places, existing):
        kept = existing.get(secret["metadata"]["name"], {}).items()
        secret["stringData"] |= {key: value for key, value in kept if key not in _ADDRESSES}
        yield secret


def _made(identities: Identities, places: Places, existing: Values) -> Iterator[Object]:
    # A variable that begins like a number would be one to the server.
    passwords = {
        name: _known(existing, "webhost-nats", password_variable(name), f"nats-{password}")
        for name, password in (identities.nats_users | {"routes": _password()}).items()
    }
    for service in SERVICES:
        own, owners = (
            _known(existing, f"webhost-role-{service}{kind}", "password", made[service])
            for kind, made in (
                ("", identities.postgres_roles),
                ("-owner", identities.postgres_owners),
            )
        )
        nats_url = places.nats.format(f"{service}:{passwords[service]}")
        data = _of_service(service, identities) | {
            "DATABASE_URL": places.dsn(service, role(service), own),
            "NATS_URL": nats_url,
        }
        yield _secret(f"webhost-{service}", data)
        dsn = places.dsn(service, owner(service), owners)
        yield _secret(f"webhost-{service}-migrations", {"MIGRATIONS_DATABASE_URL": dsn})
        yield _login(f"webhost-role-{service}", role(service), own)
        yield _login(f"webhost-role-{service}-owner", owner(service), owners)
    nats_url = places.nats.format(f"{OPERATOR}:{passwords[OPERATOR]}")
    yield _secret(f"webhost-{OPERATOR}", {"NATS_URL": nats_url})
    for service in KEY_HOLDERS:
        yield _secret(f"webhost-{service}-keys", {"keys.env": identities.keys_file_of(service)})
    yield _secret(
        "webhost-nats",
        {password_variable(name): password for name, password in passwords.items()},
    )


def _of_service(service: str, identities: Identities) -> dict[str, str]:
    match service:
        case "api":
            return {"RESPONSE_KEYS": identities.api_response_keys}
        case "gateway":
            return {"RESPONSE_KEYS": identities.response_keys}
        case "deployer" if "CLOUDFLARE_API_TOKEN" in os.environ:
            return {"CLOUDFLARE_API_TOKEN": os.environ["CLOUDFLARE_API_TOKEN"]}
        case _:
            return {}


def _known(existing: Values, secret: str, key: str, made: str) -> str:
    return existing.get(secret, {}).get(key, made)


def _password() -> str:
    return token_urlsafe(24)


def _secret(name: str, data: Mapping[str, str], kind: str = "Opaque") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "webhost"}},
        "type": kind,
        "stringData": dict(data),
    }


def _login(name: str, user: str, password: str) -> Object:
    """Return a role's password as CloudNativePG reads it, and reads it again when it changes."""
    data = {"username": user, "password": password}
    secret = _secret(name, data, "kubernetes.io/basic-auth")
    secret["metadata"]["labels"]["cnpg.io/reload"] = "true"
    return secret


def values_of(document: Object) -> dict[str, dict[str, str]]:
    """Return what is in a list of Secrets, as this prints it or as `kubectl get` does."""
    return {
        it["metadata"]["name"]: {
            **{key: base64.b64decode(text).decode() for key, text in it.get("data", {}).items()},
            **it.get("stringData", {}),
        }
        for it in document["items"]
    }


def places(chosen: argparse.Namespace) -> Places:
    """Return what the options say."""
    known = Places()
    return Places(
        nats=known.nats.replace("tls://", "nats://") if chosen.plain_nats else known.nats,
        postgres=chosen.postgres or known.postgres,
        gateway_postgres=chosen.gateway_postgres,
        postgres_parameters=chosen.postgres_parameters
        or (_ELSEWHERE if chosen.postgres else _IN_THE_CLUSTER),
    )


def options() -> argparse.ArgumentParser:
    """Return what may be said on the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy secrets", description=__doc__)
    parser.add_argument("--existing", type=Path, help="of `kubectl get secret --output json`")
    parser.add_argument("--plain-nats", action="store_true", help="for overlays/local")
    parser.add_argument("--postgres", type=_address, metavar="HOST:PORT", help="where it is")
    parser.add_argument(
        "--gateway-postgres", type=_address, metavar="HOST:PORT", help="where it has its own"
    )
    parser.add_argument("--postgres-parameters", help=f"`{_ELSEWHERE}` where Postgres is elsewhere")
    return parser


def _address(text: str) -> str:
    if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def main(arguments: list[str]) -> None:
    """Print them, as JSON."""
    chosen = options().parse_args(arguments)
    if sys.stdout.isatty():
        sys.exit("these are secrets: pipe them into `kubectl create -f -`")
    existing: Values = {}
    if chosen.existing:
        existing = values_of(yaml.safe_load(chosen.existing.read_text()))
        # Keys belong together: new ones open nothing of the others'.
        if missing := {f"webhost-{one}-keys" for one in KEY_HOLDERS} - existing.keys():
            sys.exit(f"missing in {chosen.existing}: {', '.join(sorted(missing))}")
    items = list(secrets(places(chosen), existing))
    if not any("CLOUDFLARE_API_TOKEN" in it["stringData"] for it in items):
        print("CLOUDFLARE_API_TOKEN is not set: the deployer will want it", file=sys.stderr)
    try:
        json.dump({"apiVersion": "v1", "kind": "List", "items": items}, sys.stdout, indent=1)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit("the reader went away: not all Secrets are made")
