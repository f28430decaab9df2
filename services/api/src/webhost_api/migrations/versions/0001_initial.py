"""Users, accounts, agents, deployments, idempotency records, and the event tables."""

from alembic import op
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL

revision = "0001"
down_revision = None

# Ids are compared as bytes, since the lists' cursors rest on their order.
TABLES_SQL = """
CREATE TABLE users (
    user_id text PRIMARY KEY,
    issuer text NOT NULL,
    subject text NOT NULL,
    email text,
    name text,
    created_at_ms bigint NOT NULL
);
CREATE TABLE accounts (
    user_id text PRIMARY KEY,
    tier text NOT NULL,
    version integer NOT NULL
);
CREATE TABLE agents (
    agent_id text COLLATE "C" PRIMARY KEY,
    user_id text NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    description text,
    env_var_keys text[] NOT NULL,
    preferred_runtime_provider text,
    status text NOT NULL,
    active_deployment_id text,
    running_deployment_id text,
    pointer_revision integer NOT NULL,
    newest_deployment_version integer NOT NULL,
    last_deploy_failed boolean NOT NULL,
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    last_deployed_at_ms bigint,
    disabled_at_ms bigint,
    deleted_at_ms bigint
);
CREATE INDEX agents_by_user ON agents (user_id, agent_id);
CREATE UNIQUE INDEX agents_name ON agents (user_id, name) WHERE deleted_at_ms IS NULL;
CREATE TABLE deployments (
    deployment_id text COLLATE "C" PRIMARY KEY,
    user_id text NOT NULL,
    agent_id text NOT NULL REFERENCES agents,
    version integer NOT NULL,
    runtime_provider text NOT NULL,
    artifact_type text NOT NULL,
    artifact_checksum text NOT NULL,
    artifact_size_bytes bigint NOT NULL,
    main_module_name text NOT NULL,
    invoke_path text NOT NULL,
    compatibility_date text NOT NULL,
    commit_hash text,
    set_as_active boolean NOT NULL,
    pointer_revision integer NOT NULL,
    status text NOT NULL,
    retired boolean NOT NULL,
    worker_name text,
    invoke_url text,
    error jsonb,
    created_at_ms bigint NOT NULL,
    deployed_at_ms bigint,
    finished_at_ms bigint,
    fact_version integer NOT NULL
);
CREATE UNIQUE INDEX deployments_version ON deployments (agent_id, version);
CREATE INDEX deployments_by_agent ON deployments (agent_id, deployment_id);
CREATE TABLE idempotency (
    user_id text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status integer NOT NULL,
    body bytea NOT NULL,
    answered_at_ms bigint NOT NULL,
    PRIMARY KEY (user_id, route, key)
);
CREATE INDEX idempotency_by_age ON idempotency (answered_at_ms);
"""


def upgrade() -> None:
    """Make the tables of the first version."""
    op.execute(EVENT_TABLES_SQL)
    op.execute(TABLES_SQL)
