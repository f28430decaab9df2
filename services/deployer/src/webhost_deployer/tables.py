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
    sa.Column("began_at_ms", sa.BigInteger),
    sa.Column("state", JSONB, nullable=False),
    sa.Index("deployments_by_agent", "agent_id"),
    sa.Index("deployments_due", "due_at_ms", postgresql_where=sa.text("due_at_ms IS NOT NULL")),
    sa.Index(
        "deployments_held",
        "deployment_id",
        postgresql_where=sa.text("phase NOT IN ('failed', 'torn_down')"),
    ),
)

STAYS = ~deployments.c.state.has_key("tearDownAtMs")
"""Of deployments: it is not to be removed."""
HAS_SCRIPT = ~deployments.c.state.has_key("scriptLost")
"""Of deployments: its script was not found missing at the provider."""

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

agent_secrets = sa.Table(
    "agent_secrets",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
"""The version of each agent's secrets: how many facts there are about them."""

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sealed", sa.Text),
    sa.Column("is_lost", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)
"""Sealed values, by name. Without one, the row is a deletion that a Worker may not know of yet, or
stands for a value that a restore lost. `version` is that of the agent's secrets which it is of.
"""

secret_operations = sa.Table(
    "secret_operations",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("operation", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("done_at_ms", sa.BigInteger, nullable=False),
    sa.Index("secret_operations_by_age", "done_at_ms"),
)
"""The requests of late that set secrets, and the version behind each: one that comes again is known
whatever happened to its values since.
"""

front_updates = sa.Table(
    "front_updates",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_by", sa.Text),
    sa.Index("front_updates_by_agent", "agent_id"),
    sa.Index("front_updates_due", "due_at_ms"),
)
"""The deployments whose front is to be given keys. `revoked_by` is the operator who revokes its
telemetry key, if one does.
"""

installation_keys = sa.Table(
    "installation_keys",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("key_ids", JSONB, nullable=False),
    sa.Column("is_refreshed", sa.Boolean, nullable=False),
)
"""One row: the ids of the keys that fronts are to have and secrets to be sealed for, and whether
the installation's own scripts have them.
"""

secret_updates = sa.Table(
    "secret_updates",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at_ms", sa.BigInteger, nullable=False),
    sa.Index("secret_updates_by_agent", "agent_id"),
    sa.Index("secret_updates_due", "due_at_ms"),
)
"""The deployments that answer and lag behind their agent's secrets."""
