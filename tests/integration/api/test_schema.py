"""The migrations make what the tables say."""

from webhost_api.tables import metadata

from tests.support.schema import differences


def test_migrations_and_tables_agree(database_url: str) -> None:
    assert differences(database_url, "webhost_api", metadata) == []
