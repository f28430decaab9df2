"""Whether a service's migrations make what its tables say."""

from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from webhost_kit.database.engine import sqlalchemy_url
from webhost_kit.database.migrations import upgrade


def differences(dsn: str, package: str, metadata: sa.MetaData) -> list[Any]:
    """Migrate an empty database, and return how it differs from `metadata`."""
    upgrade(dsn, package)
    engine = sa.create_engine(sqlalchemy_url(dsn))
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            found = compare_metadata(context, metadata)
    finally:
        engine.dispose()
    return [change for change in found if "alembic_version" not in repr(change)]
