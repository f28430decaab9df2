"""The api's own tables. The migrations make them; a test compares the two."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from webhost_kit.eventsourcing.store import event_tables

metadata = sa.MetaData()
event_tables(metadata)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("email", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
"""What billing said of a user's tier, which may come before the user; no row means `free`."""

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("agent_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("env_var_keys", ARRAY(sa.Text), nullable=False),
    sa.Column("preferred_runtime_provider", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("active_deployment_id", sa.Text),
    sa.Column("running_deployment_id", sa.Text),
    sa.Column("pointer_revision", sa.Integer, nullable=False),
    sa.Column("newest_deployment_version", sa.Integer, nullable=False),
    sa.Column("last_deploy_failed", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    sa.Column("last_deployed_at_ms", sa.BigInteger),
    sa.Column("disabled_at_ms", sa.BigInteger),
    sa.Column("deleted_at_ms", sa.BigInteger),
    sa.Index("agents_by_user", "user_id", "agent_id"),
    sa.Index(
        "agents_name",
        "user_id",
        "name",
        unique=True,
        postgresql_where=sa.text("deleted_at_ms IS NULL"),
    ),
)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("deployment_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.agent_id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("artifact_type", sa.Text, nullable=False),
    sa.Column("artifact_checksum", sa.Text, nullable=False),
    sa.Column("artifact_size_bytes", sa.BigInteger, nullable=False),
    sa.Column("main_module_name", sa.Text, nullable=False),
    sa.Column("invoke_path", sa.Text, nullable=False),
    sa.Column("compatibility_date", sa.Text, nullable=False),
    sa.Column("commit_hash", sa.Text),
    sa.Column("set_as_active", sa.Boolean, nullable=False),
    sa.Column("pointer_revision", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("retired", sa.Boolean, nullable=False),
    sa.Column("worker_name", sa.Text),
    sa.Column("invoke_url", sa.Text),
    sa.Column("error", JSONB(none_as_null=True)),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("deployed_at_ms", sa.BigInteger),
    sa.Column("finished_at_ms", sa.BigInteger),
    sa.Column("fact_version", sa.Integer, nullable=False),
    sa.Index("deployments_version", "agent_id", "version", unique=True),
    sa.Index("deployments_by_agent", "agent_id", "deployment_id"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("answered_at_ms", sa.BigInteger, nullable=False),
    sa.Index("idempotency_by_age", "answered_at_ms"),
)
