"""The tables of the first version."""

from alembic import op
from webhost_billing.tables import generations, metadata
from webhost_kit.database.migrations import create_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and generation 1 live."""
    create_tables(metadata)
    op.execute(generations.insert().values(scope="all", live=1, newest=1))
