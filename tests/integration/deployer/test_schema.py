"""The migrations make what the tables say."""

from webhost_deployer.tables import metadata

from tests.support.schema import differences


def test_migrations_and_tables_agree(database_url: str) -> None:
    assert differences(database_url, "webhost_deployer", metadata) == []
