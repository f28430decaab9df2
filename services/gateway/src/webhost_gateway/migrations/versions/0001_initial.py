"""The first schema: outbox and checkpoints, invocations and their quotas, leases, routes."""

from alembic import op
from webhost_kit.eventsourcing.checkpoints import PROJECTION_TABLES_SQL
from webhost_kit.eventsourcing.outbox import OUTBOX_SQL

revision = "0001"
down_revision = None

TABLES_SQL = """
CREATE TABLE leases (
    gateway_id text PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE TABLE quotas (
    user_id text NOT NULL,
    period_key text NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    in_flight bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, period_key)
) WITH (fillfactor = 50);
CREATE TABLE invocations (
    id text PRIMARY KEY,
    user_id text NOT NULL,
    agent_id text NOT NULL,
    deployment_id text NOT NULL,
    runtime_provider text NOT NULL,
    trace_id text NOT NULL,
    period_key text NOT NULL,
    admitted_at_ms bigint NOT NULL,
    gateway_id text NOT NULL,
    finished_at_ms bigint
);
CREATE INDEX invocations_open ON invocations (gateway_id) WHERE finished_at_ms IS NULL;
CREATE TABLE routed_agents (
    agent_id text PRIMARY KEY,
    version integer NOT NULL,
    user_id text NOT NULL,
    disabled boolean NOT NULL,
    deleted boolean NOT NULL,
    deployment_id text
);
CREATE TABLE routed_deployments (
    deployment_id text PRIMARY KEY,
    version integer NOT NULL,
    runtime_provider text NOT NULL,
    invoke_url text
);
CREATE TABLE routed_accounts (
    user_id text PRIMARY KEY,
    version integer NOT NULL,
    tier text NOT NULL
);
"""


def upgrade() -> None:
    op.execute(PROJECTION_TABLES_SQL)
    op.execute(OUTBOX_SQL)
    op.execute(TABLES_SQL)
