"""The route table knows agents' names, for traces; a replay of `gateway.routes` fills them in."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column where the tables are of before it."""
    op.execute("ALTER TABLE routed_agents ADD COLUMN IF NOT EXISTS name text NOT NULL DEFAULT ''")
