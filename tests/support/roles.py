"""The stack's database with its roles, provisioned and migrated, without a stack."""

import psycopg
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.revisions import package_of
from webhost_kit.database.row_security import ALL_USERS
from webhost_local.installation.identities import Identities
from webhost_local.installation.postgres_roles import DATABASE, owner, provision, role
from webhost_local.installation.services import SERVICES

from tests.support.infra import Postgres


class StackDatabase:
    """The stack's database, provisioned and migrated as the supervisor does it."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.identities = Identities()
        self.dsn = postgres.dsn_of(DATABASE)
        self.provision()

    def provision(self) -> None:
        provision(
            self.postgres.dsn,
            self.dsn,
            self.identities.postgres_roles,
            self.identities.postgres_owners,
        )

    def migrate(self, *services: str, revision: str = "head") -> None:
        """Migrate the schemas of these services, by default of all."""
        for service in services or SERVICES:
            upgrade(self.owner_dsn(service), package_of(service), role(service), revision)

    def role_dsn(self, service: str, database: str = DATABASE) -> str:
        return self._dsn(role(service), self.identities.postgres_roles[service], database)

    def owner_dsn(self, service: str) -> str:
        return self._dsn(owner(service), self.identities.postgres_owners[service], DATABASE)

    def connect(self, service: str, database: str = DATABASE) -> psycopg.Connection:
        """Connect as the service; about all users, where its tables are by user."""
        named = f"-c webhost.user_id={ALL_USERS}"
        return psycopg.connect(self.role_dsn(service, database), autocommit=True, options=named)

    def _dsn(self, name: str, password: str, database: str) -> str:
        address = self.dsn.rpartition("@")[2].rpartition("/")[0]
        return f"postgresql://{name}:{password}@{address}/{database}"
