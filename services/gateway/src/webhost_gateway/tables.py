"""The gateway's own tables; `migrations/` makes them, a test holds the two together."""

import sqlalchemy as sa
from webhost_kit.eventsourcing.checkpoints import projection_tables
from webhost_kit.eventsourcing.outbox import outbox_table

metadata = sa.MetaData()
outbox_table(metadata)
projection_tables(metadata)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("gateway_id", sa.Text, primary_key=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
)

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("in_flight", sa.BigInteger, nullable=False, server_default="0"),
)

invocations = sa.Table(
    "invocations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("period_key", sa.Text, nullable=False),
    sa.Column("admitted_at_ms", sa.BigInteger, nullable=False),
    sa.Column("gateway_id", sa.Text, nullable=False),
    sa.Column("finished_at_ms", sa.BigInteger),
    sa.Index("invocations_open", "gateway_id", postgresql_where=sa.text("finished_at_ms IS NULL")),
)

routed_agents = sa.Table(
    "routed_agents",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("deployment_id", sa.Text),
)

routed_deployments = sa.Table(
    "routed_deployments",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("invoke_url", sa.Text),
)

routed_accounts = sa.Table(
    "routed_accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
)
