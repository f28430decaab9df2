"""A backup is put back as docs/self-hosting.md says, by a version whose migrations add a table.

The page's commands are run as they stand there. `docker` is a stand-in: what happens in the
container of Postgres, and in the one that migrates, happens here, on a Postgres of the tests.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import webhost_telemetry_ingest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from webhost_local.compose.variables import prefix
from webhost_local.installation.postgres_roles import DATABASE, owner, role, schema
from webhost_local.installation.services import SERVICES

from tests.support.canaries import PG_DUMP
from tests.support.infra import Postgres, running_postgres

PAGE = Path(__file__).parents[3] / "docs" / "self-hosting.md"
BACK_UP, RESTORE, NATS, START = range(4)
PASSWORD = "of-a-role"
SERVICE = "telemetry-ingest"
PACKAGE = Path(webhost_telemetry_ingest.__file__).parent

DOCKER = f"""#!{shutil.which("sh")}
case "$*" in
  "compose exec -T postgres "*) shift 4; exec "$@" ;;
  "compose run --rm --no-deps database" | "compose up --detach --wait")
    exec {sys.executable} -P -m webhost_local.compose.database ;;
  "compose stop "* | "compose start "* | "compose up --detach --wait postgres") ;;
  "compose run --rm cli "* | "compose run --rm --no-deps -T --entrypoint "*) ;;
  *) echo "unknown: $*" >&2; exit 64 ;;
esac
"""
MIGRATION = '''
from alembic import op

revision = "9000"
down_revision = "0001"


def upgrade() -> None:
    """Make a table."""
    op.execute("CREATE TABLE of_a_later_version (id text PRIMARY KEY)")
'''


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


class Operator:
    """Whoever follows the page, with the program of one version."""

    def __init__(self, directory: Path, postgres: Postgres) -> None:
        self._directory = directory
        self._postgres = postgres
        (directory / "bin").mkdir()
        docker = directory / "bin" / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self._env = {
            "PATH": os.pathsep.join(
                [str(directory / "bin"), str(PG_DUMP.parent), os.environ["PATH"]]
            ),
            "DATABASE_SUPERUSER_URL": postgres.dsn,
            "POSTGRES_PASSWORD": str(conninfo_to_dict(postgres.dsn)["password"]),
            "PGPORT": str(conninfo_to_dict(postgres.dsn)["port"]),
            **{f"POSTGRES_PASSWORD_OF_{prefix(one)}": PASSWORD for one in SERVICES},
            **{f"POSTGRES_PASSWORD_OF_{prefix(one)}_OWNER": PASSWORD for one in SERVICES},
        }

    def has_a_later_version(self) -> None:
        """From now on a service has one migration more."""
        program = self._directory / "program"
        shutil.copytree(PACKAGE, program / PACKAGE.name)
        versions = program / PACKAGE.name / "migrations" / "versions"
        (versions / "9000_one_table_more.py").write_text(MIGRATION)
        self._env["PYTHONPATH"] = str(program)

    def follows(self, block: int) -> None:
        """Run one of the section's blocks."""
        section = PAGE.read_text().partition("\n## Back up, and restore\n")[2].partition("\n## ")[0]
        commands = re.findall(r"```sh\n(.*?)```", section, re.S)[block]
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=self._directory,
            env=self._env,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(self, query: str, service: str = SERVICE) -> list[tuple[object, ...]]:
        """What the service itself sees."""
        dsn = make_conninfo(self._postgres.dsn_of(DATABASE), user=role(service), password=PASSWORD)
        with psycopg.connect(dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def change(self, statement: str) -> None:
        with psycopg.connect(self._postgres.dsn_of(DATABASE)) as connection:
            connection.execute(statement.encode())


def privileges(operator: Operator) -> list[tuple[object, ...]]:
    return operator.rows(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
        " WHERE grantee = current_user ORDER BY 1, 2"
    )


def given_note(operator: Operator) -> None:
    """A row, as the service's owner would have made it."""
    name = schema(SERVICE)
    operator.change(f"CREATE TABLE {name}.note AS SELECT 'of then' AS text")
    operator.change(f"ALTER TABLE {name}.note OWNER TO {owner(SERVICE)}")


def noted(operator: Operator) -> list[tuple[object, ...]]:
    operator.change(f"GRANT SELECT ON {schema(SERVICE)}.note TO {role(SERVICE)}")
    return operator.rows("SELECT text FROM note")


def test_what_was_backed_up_is_there_for_the_version_of_today(
    tmp_path: Path, postgres: Postgres
) -> None:
    operator = Operator(tmp_path, postgres)
    operator.follows(START)
    granted = privileges(operator)
    assert granted
    given_note(operator)
    operator.follows(BACK_UP)
    operator.change(f"UPDATE {schema(SERVICE)}.note SET text = 'of today'")

    operator.has_a_later_version()
    operator.follows(START)
    assert operator.rows("SELECT version_num FROM alembic_version") == [("9000",)]

    operator.follows(RESTORE)
    operator.follows(NATS)
    operator.follows(START)
    assert operator.rows("SELECT version_num FROM alembic_version") == [("9000",)]
    assert operator.rows("SELECT to_regclass('of_a_later_version') IS NOT NULL") == [(True,)]
    assert privileges(operator) == granted
    assert noted(operator) == [("of then",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        operator.rows("SELECT 1 FROM api.users")


def test_it_is_put_back_on_a_new_machine(tmp_path: Path, postgres: Postgres) -> None:
    operator = Operator(tmp_path, postgres)
    operator.follows(START)
    given_note(operator)
    operator.follows(BACK_UP)
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(DATABASE)))
        for service in SERVICES:
            for one in (role(service), owner(service)):
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(one)))
    operator.follows(RESTORE)
    operator.follows(START)
    assert noted(operator) == [("of then",)]
