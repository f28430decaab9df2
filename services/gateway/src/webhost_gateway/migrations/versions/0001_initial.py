"""The first schema: checkpoints, invocations and their quotas, leases, usage outbox, routes."""

from alembic import op
from webhost_kit.eventsourcing.checkpoints import PROJECTION_TABLES_SQL

revision = "0001"
down_revision = None

TABLES_SQL = """
CREATE TABLE leases (
    gateway_id text PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    incarnation text NOT NULL,
    dead boolean NOT NULL DEFAULT false
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
CREATE TABLE usage_outbox (
    gateway_id text NOT NULL,
    serial bigint GENERATED ALWAYS AS IDENTITY,
    subject text NOT NULL,
    body text NOT NULL,
    oldest_ms bigint NOT NULL,
    PRIMARY KEY (gateway_id, serial)
);
CREATE TABLE routed_agents (
    agent_id text PRIMARY KEY,
    version integer NOT NULL,
    user_id text NOT NULL,
    disabled boolean NOT NULL,
    deployment_id text,
    deleted_at_ms bigint
);
CREATE TABLE routed_deployments (
    deployment_id text PRIMARY KEY,
    version integer NOT NULL,
    runtime_provider text NOT NULL,
    invoke_url text,
    ended_at_ms bigint
);
CREATE TABLE routed_accounts (
    user_id text PRIMARY KEY,
    version integer NOT NULL,
    tier text NOT NULL
);
"""


def upgrade() -> None:
    op.execute(PROJECTION_TABLES_SQL)
    op.execute(TABLES_SQL)
