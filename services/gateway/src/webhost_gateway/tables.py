"""The gateway's own tables, from which the first migration makes them."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from webhost_kit.eventsourcing.checkpoints import projection_tables

metadata = sa.MetaData()
projection_tables(metadata)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("gateway_id", sa.Text, primary_key=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("incarnation", sa.Text, nullable=False),
    sa.Column("dead", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("pressed", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
)

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("in_flight", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # An updated row finds room on its own page.
    postgresql_with={"fillfactor": 50},
)

key_quotas = sa.Table(
    "key_quotas",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    postgresql_with={"fillfactor": 50},
)
"""What API keys with a limit of their own have used, by day or month."""

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
    sa.Column("key_id", sa.Text),
    sa.Column("key_period", sa.Text),
    sa.Index("invocations_open", "gateway_id", postgresql_where=sa.text("finished_at_ms IS NULL")),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    # The key, of RESPONSE_KEYS, of the fingerprint and of the response.
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("invocation_id", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_at_ms", sa.BigInteger),
    sa.Column("response", sa.LargeBinary),
    sa.Index(
        "idempotency_open", "invocation_id", postgresql_where=sa.text("finished_at_ms IS NULL")
    ),
    sa.Index(
        "idempotency_responses", "finished_at_ms", postgresql_where=sa.text("response IS NOT NULL")
    ),
    sa.Index("idempotency_by_age", "kind", "created_at_ms"),
)

usage_outbox = sa.Table(
    "usage_outbox",
    metadata,
    sa.Column("gateway_id", sa.Text, primary_key=True),
    sa.Column("serial", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("oldest_ms", sa.BigInteger, nullable=False),
)

routed_agents = sa.Table(
    "routed_agents",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("deployment_id", sa.Text),
    sa.Column("deleted_at_ms", sa.BigInteger),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
)

routed_deployments = sa.Table(
    "routed_deployments",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("invoke_url", sa.Text),
    sa.Column("ended_at_ms", sa.BigInteger),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("key_generation", sa.Integer, nullable=False),
)

routed_accounts = sa.Table(
    "routed_accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text),
    sa.Column("disabled", sa.Boolean, nullable=False),
)

routed_keys = sa.Table(
    "routed_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
    sa.Column("agent_ids", sa.ARRAY(sa.Text)),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("limits", JSONB(none_as_null=True)),
    sa.Column("secret_hash", sa.Text, nullable=False),
    sa.Column("previous_hash", sa.Text),
    sa.Column("previous_expires_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
)
