"""The tables of the first version."""

from webhost_kit.database.migrations import create_tables
from webhost_telemetry_ingest.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    create_tables(metadata)
