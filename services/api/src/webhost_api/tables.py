"""The api's own tables, from which the first migration makes them.

Agents and deployments are kept as documents, `state`. The other columns repeat the fields by which
rows are found, ordered or constrained. Ids are compared as bytes: the cursors rely on their order.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from webhost_kit.eventsourcing.store import event_tables

metadata = sa.MetaData()
event_tables(metadata)
_events = metadata.tables["events"]
sa.Index("events_by_user", _events.c.user_id, _events.c.occurred_at_ms)

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
    sa.Column("tier", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
)
"""Users' tiers and status, as billing states them; a row may precede its user.

No tier, as no row, means `free`.
"""

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("agent_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("deleted_at_ms", sa.BigInteger),
    sa.Column("unstarted_version", sa.Integer),
    sa.Column("state", JSONB, nullable=False),
    sa.Index("agents_by_user", "user_id", "agent_id"),
    sa.Index(
        "agents_name",
        "user_id",
        "name",
        unique=True,
        postgresql_where=sa.text("deleted_at_ms IS NULL"),
    ),
    sa.Index(
        "agents_unstarted",
        "unstarted_version",
        postgresql_where=sa.text("unstarted_version IS NOT NULL"),
    ),
)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("deployment_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text(collation="C"), sa.ForeignKey("agents.agent_id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("is_kept", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Column("unstarted_version", sa.Integer),
    sa.Column("state", JSONB, nullable=False),
    sa.Index("deployments_version", "agent_id", "version", unique=True),
    sa.Index("deployments_by_agent", "agent_id", "deployment_id"),
    sa.Index("deployments_by_user", "user_id", "created_at_ms"),
    sa.Index(
        "deployments_by_artifact",
        "checksum",
        postgresql_where=sa.text("status NOT IN ('failed', 'deleted')"),
    ),
    sa.Index(
        "deployments_unstarted",
        "unstarted_version",
        postgresql_where=sa.text("unstarted_version IS NOT NULL"),
    ),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
    sa.Column("state", JSONB, nullable=False),
    sa.Index(
        "api_keys_by_user",
        "user_id",
        "key_id",
        postgresql_where=sa.text("revoked_at_ms IS NULL"),
    ),
)
"""Users' API keys; of their secrets the hashes."""

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("answered_at_ms", sa.BigInteger, nullable=False),
    sa.Index("idempotency_by_age", "answered_at_ms"),
    sa.Index("idempotency_by_user", "user_id", "answered_at_ms"),
)
"""The recorded answers, sealed; `key_id` is the one of RESPONSE_KEYS that each needs."""

idempotency_claims = sa.Table(
    "idempotency_claims",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("first_tried_at_ms", sa.BigInteger, nullable=False),
    sa.Index("idempotency_claims_by_age", "first_tried_at_ms"),
    sa.Index("idempotency_claims_by_user", "user_id", "first_tried_at_ms"),
)
"""When a key was first used and for which request, whatever the outcome; the ids that its request
creates have this time.
"""

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("checksum", sa.Text, primary_key=True),
    sa.Column("wanted_at_ms", sa.BigInteger, nullable=False),
    sa.Index("artifacts_by_age", "wanted_at_ms"),
)
"""When somebody last meant to deploy a stored artifact, or it was first seen in the store."""

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("upload_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("manifest", JSONB, nullable=False),
    sa.Column("module_names", JSONB, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
    sa.Index("uploads_by_user", "user_id", "expires_at_ms"),
    sa.Index("uploads_by_artifact", "checksum"),
    sa.Index("uploads_by_age", "expires_at_ms"),
)
"""Bundles that can be deployed until they expire. Their artifacts are stored as long."""

history = sa.Table(
    "history",
    metadata,
    sa.Column("event_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text(collation="C")),
    sa.Column("number", sa.BigInteger),
    sa.Column("deployment_id", sa.Text(collation="C")),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("action", sa.Text),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("data", JSONB, nullable=False),
    sa.Index("history_by_agent", "agent_id", "number", unique=True),
    sa.Index("history_by_deployment", "deployment_id", "at_ms", "version", "event_id"),
    sa.Index(
        "history_by_user",
        "user_id",
        "at_ms",
        "version",
        "event_id",
        postgresql_where=sa.text("action IS NOT NULL"),
    ),
    sa.Index("history_by_age", "at_ms", "event_id"),
)
"""What happened to users' things, one row a fact: an audit entry where it has an `action`, an event
of its agent where it has a `number`, a line of its deployment's log.
"""

agent_events = sa.Table(
    "agent_events",
    metadata,
    sa.Column("agent_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("last_number", sa.BigInteger, nullable=False),
)
"""The number of each agent's newest event; it never falls, whatever retention removes."""
