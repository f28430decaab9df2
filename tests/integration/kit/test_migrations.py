"""Migrations, by a program that is older than the schema."""

import psycopg
from webhost_kit.database.migrations import upgrade, wait_for_schema

PACKAGE = "webhost_billing"


def test_a_later_versions_schema_is_left_as_it_is(database_url: str) -> None:
    upgrade(database_url, PACKAGE)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    upgrade(database_url, PACKAGE)
    wait_for_schema(database_url, PACKAGE)
