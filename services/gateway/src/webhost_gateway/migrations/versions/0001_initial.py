"""The tables of the first version."""

from webhost_gateway.tables import metadata
from webhost_kit.database.migrations import create_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    create_tables(metadata)
