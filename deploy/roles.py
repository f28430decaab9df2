"""`python -m deploy roles [SERVICE…]` makes database, roles and schemas in a Postgres elsewhere.

Of the Secrets on standard input, as `deploy secrets` or `kubectl get secret --output json` print
them, it takes the roles' passwords; DATABASE_SUPERUSER_URL is of somebody there who may make
databases and roles. Repeating it changes nothing; without services it is for all of them.
"""

import os
import sys

import psycopg
import yaml
from psycopg.conninfo import make_conninfo
from webhost_local.installation.postgres_roles import DATABASE, provision
from webhost_local.installation.services import SERVICES

from deploy.secrets import values_of


def main(services: list[str]) -> None:
    """Make them."""
    admin = os.environ.get("DATABASE_SUPERUSER_URL")
    if not admin or not set(services) <= set(SERVICES):
        sys.exit(__doc__)
    given = values_of(yaml.safe_load(sys.stdin))
    passwords, owners = (
        {one: given[f"webhost-role-{one}{kind}"]["password"] for one in services or SERVICES}
        for kind in ("", "-owner")
    )
    try:
        provision(admin, make_conninfo(admin, dbname=DATABASE), passwords, owners)
    except psycopg.Error as error:
        sys.exit(f"roles: {error}")
