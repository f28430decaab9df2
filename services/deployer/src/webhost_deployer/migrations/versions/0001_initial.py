"""The event table, the deployments, the deleted agents and the shared call limit."""

from alembic import op
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(EVENT_TABLES_SQL)
    op.execute(
        """
        CREATE TABLE deployments (
            deployment_id text PRIMARY KEY,
            agent_id text NOT NULL,
            phase text NOT NULL,
            due_at_ms bigint,
            state jsonb NOT NULL
        );
        CREATE INDEX deployments_by_agent ON deployments (agent_id);
        CREATE INDEX deployments_due ON deployments (due_at_ms) WHERE due_at_ms IS NOT NULL;
        CREATE TABLE agent_teardowns (
            agent_id text PRIMARY KEY,
            tries integer NOT NULL,
            due_at_ms bigint,
            state jsonb NOT NULL
        );
        CREATE INDEX agent_teardowns_due ON agent_teardowns (due_at_ms)
            WHERE due_at_ms IS NOT NULL;
        CREATE TABLE rate_limits (
            name text PRIMARY KEY,
            tokens double precision NOT NULL,
            at timestamptz NOT NULL
        );
        """
    )
