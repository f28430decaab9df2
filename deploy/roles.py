"""`python -m deploy roles [SERVICE…]` makes database, roles and schemas in a Postgres elsewhere.

Of the Secrets on standard input, as `deploy secrets` or `kubectl get secret --output json` print
them, it takes the roles' passwords; DATABASE_SUPERUSER_URL is of somebody there who may make
databases and roles. Repeating it changes nothing; without services it is for all of them.
"""

import os
import sys
from collections.abc import Mapping

import psycopg
import yaml
from psycopg.conninfo import make_conninfo
from webhost_local.installation.postgres_roles import DATABASE, provision
from webhost_local.installation.services import SERVICES

from deploy.secrets import values_of

KINDS = ("", "-owner")


def _given() -> Mapping[str, Mapping[str, str]]:
    try:
        return values_of(yaml.safe_load(sys.stdin))
    except (yaml.YAMLError, LookupError, TypeError, ValueError):
        sys.exit("roles: standard input is no list of Secrets")


def main(services: list[str]) -> None:
    """Make them."""
    admin = os.environ.get("DATABASE_SUPERUSER_URL")
    if not admin or not set(services) <= set(SERVICES):
        sys.exit(__doc__)
    given = _given()
    names = [f"webhost-role-{one}{kind}" for kind in KINDS for one in services or SERVICES]
    if missing := [name for name in names if "password" not in given.get(name, {})]:
        sys.exit(f"roles: no Secret with a password is on standard input for {', '.join(missing)}")
    passwords, owners = (
        {one: given[f"webhost-role-{one}{kind}"]["password"] for one in services or SERVICES}
        for kind in KINDS
    )
    try:
        provision(admin, make_conninfo(admin, dbname=DATABASE), passwords, owners)
    except psycopg.Error as error:
        sys.exit(f"roles: {error}")
