"""`python -m deploy secrets` prints the Secrets of a new installation: new passwords, new keys.

To be piped into `kubectl create --namespace webhost -f -`, which replaces none that is there: the
next time they are others. What somebody has given you is not among them: certificates, and what
LemonSqueezy needs; CLOUDFLARE_API_TOKEN is, where it is in the environment.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from secrets import token_urlsafe

from webhost_local.identities import KEY_HOLDERS, Identities, owner, role
from webhost_local.nats_accounts import SERVICES, password_variable
from webhost_local.provision import DATABASE

from deploy.rendering import Object


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where Postgres and NATS are. The parameters belong to every DSN."""

    nats: str = "tls://{}@webhost-nats:4222"
    postgres: str = "webhost-postgres-rw:5432"
    gateway_postgres: str | None = None
    postgres_parameters: str = "sslmode=verify-full&sslrootcert=/etc/webhost/trust/postgres.crt"

    def dsn(self, service: str, user: str, password: str) -> str:
        """Return the DSN of a role of this service's."""
        own, parameters = self.postgres, self.postgres_parameters
        if service == "gateway" and self.gateway_postgres is not None:
            own = self.gateway_postgres
            parameters = parameters.replace("/postgres.crt", "/gateway-postgres.crt")
        return f"postgresql://{user}:{password}@{own}/{DATABASE}?{parameters}"


def secrets(identities: Identities, places: Places) -> Iterator[Object]:
    """Yield every Secret that the manifests name, certificates aside."""
    # A variable that begins like a number would be one to the server.
    passwords = {
        name: f"nats-{password}"
        for name, password in (identities.nats_users | {"routes": _password()}).items()
    }
    for service in SERVICES:
        own, owners = identities.postgres_roles[service], identities.postgres_owners[service]
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


def main(arguments: list[str]) -> None:
    """Print them, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m deploy secrets", description=__doc__)
    parser.add_argument("--plain-nats", action="store_true", help="for overlays/local")
    parser.add_argument("--postgres", default=Places.postgres, metavar="HOST:PORT")
    parser.add_argument("--gateway-postgres", metavar="HOST:PORT", help="where it has its own")
    parser.add_argument("--postgres-parameters", default=Places.postgres_parameters)
    chosen = parser.parse_args(arguments)
    places = Places(
        nats=Places.nats.replace("tls://", "nats://") if chosen.plain_nats else Places.nats,
        postgres=chosen.postgres,
        gateway_postgres=chosen.gateway_postgres,
        postgres_parameters=chosen.postgres_parameters,
    )
    items = list(secrets(Identities(), places))
    if sys.stdout.isatty():
        sys.exit("these are secrets: pipe them into `kubectl create -f -`")
    json.dump({"apiVersion": "v1", "kind": "List", "items": items}, sys.stdout, indent=1)
