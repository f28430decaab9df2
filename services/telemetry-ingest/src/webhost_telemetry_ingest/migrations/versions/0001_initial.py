"""The first schema: the projection's checkpoint, and the deployments that may report."""

from alembic import op
from webhost_kit.eventsourcing.checkpoints import PROJECTION_TABLES_SQL

revision = "0001"
down_revision = None

TABLES_SQL = """
CREATE TABLE deployments (
    deployment_id text PRIMARY KEY,
    version integer NOT NULL,
    user_id text NOT NULL,
    agent_id text NOT NULL,
    runtime_provider text NOT NULL,
    key_version integer NOT NULL,
    key_generation integer NOT NULL
);
"""


def upgrade() -> None:
    op.execute(PROJECTION_TABLES_SQL)
    op.execute(TABLES_SQL)
