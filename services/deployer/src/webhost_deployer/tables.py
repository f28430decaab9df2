"""The deployer's tables, from which the first migration makes them."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from webhost_kit.eventsourcing.store import event_tables

metadata = sa.MetaData()
event_tables(metadata)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("due_at_ms", sa.BigInteger),
    sa.Column("state", JSONB, nullable=False),
    sa.Index("deployments_by_agent", "agent_id"),
    sa.Index("deployments_due", "due_at_ms", postgresql_where=sa.text("due_at_ms IS NOT NULL")),
    sa.Index(
        "deployments_held",
        "deployment_id",
        postgresql_where=sa.text("phase NOT IN ('failed', 'torn_down')"),
    ),
)

agent_teardowns = sa.Table(
    "agent_teardowns",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at_ms", sa.BigInteger),
    sa.Column("state", JSONB, nullable=False),
    sa.Index("agent_teardowns_due", "due_at_ms", postgresql_where=sa.text("due_at_ms IS NOT NULL")),
)
"""The deleted agents. `due_at_ms` is null once the sessions are purged."""

rate_limits = sa.Table(
    "rate_limits",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tokens", sa.Double, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
)
"""Token buckets: one for each API token, and one for each user of it."""
