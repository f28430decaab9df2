"""telemetry-ingest's own tables, from which the first migration makes them."""

import sqlalchemy as sa
from webhost_kit.eventsourcing.checkpoints import projection_tables

metadata = sa.MetaData()
projection_tables(metadata)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("key_generation", sa.Integer, nullable=False),
    sa.Column("ended_at_ms", sa.BigInteger),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
)
