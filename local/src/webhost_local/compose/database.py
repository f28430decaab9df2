"""`python -m webhost_local.compose.database` makes the database's roles and schemas, and migrates.

Consumes DATABASE_SUPERUSER_URL (of the database `postgres`), and for each service
POSTGRES_PASSWORD_OF_<SERVICE> and POSTGRES_PASSWORD_OF_<SERVICE>_OWNER. Each schema is migrated as
its owner. Repeating it changes nothing; it ends with 1 where something is wrong.
"""

import os
import sys

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.revisions import newest_revision, package_of

from webhost_local.compose.variables import prefix
from webhost_local.installation.postgres_roles import DATABASE, owner, provision, role
from webhost_local.installation.services import SERVICES


def main() -> None:
    """Bring the database to what this program's services need."""
    superuser = _given("DATABASE_SUPERUSER_URL")
    passwords = {one: _given(f"POSTGRES_PASSWORD_OF_{prefix(one)}") for one in SERVICES}
    owners = {one: _given(f"POSTGRES_PASSWORD_OF_{prefix(one)}_OWNER") for one in SERVICES}
    try:
        provision(superuser, make_conninfo(superuser, dbname=DATABASE), passwords, owners)
        for service in SERVICES:
            dsn = _url(superuser, owner(service), owners[service])
            upgrade(dsn, package_of(service), role(service))
            print(f"{service}: at {newest_revision(package_of(service))}")
    except (psycopg.Error, RuntimeError, ValueError) as error:
        sys.exit(f"database: {error}")


def _url(superuser: str, user: str, password: str) -> str:
    known = conninfo_to_dict(superuser)
    return f"postgresql://{user}:{password}@{known['host']}:{known.get('port', 5432)}/{DATABASE}"


def _given(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"database: missing {name}")
    return value


if __name__ == "__main__":
    main()
