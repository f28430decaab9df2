"""The first schema: usage by generation, the totals that are due, accounts."""

from alembic import op
from webhost_kit.eventsourcing.store import EVENT_TABLES_SQL

revision = "0001"
down_revision = None

TABLES_SQL = """
CREATE TABLE generations (
    scope text PRIMARY KEY,
    live integer NOT NULL,
    newest integer NOT NULL
);
INSERT INTO generations (scope, live, newest) VALUES ('all', 1, 1);
CREATE TABLE reports (
    generation integer NOT NULL,
    key bytea NOT NULL,
    user_id text NOT NULL,
    agent_id text NOT NULL,
    deployment_id text NOT NULL,
    runtime_provider text NOT NULL,
    at_ms bigint NOT NULL,
    trace_id text,
    error_class text,
    invocation_id text,
    gateway_errors bigint,
    wall_ms bigint,
    event_id text,
    worker_requests bigint,
    worker_llm_tokens bigint,
    worker_compute_ms bigint,
    worker_tool_calls bigint,
    worker_errors bigint,
    PRIMARY KEY (generation, key)
) WITH (fillfactor = 70);
CREATE TABLE usage_events (
    generation integer NOT NULL,
    key bytea NOT NULL,
    user_id text NOT NULL,
    agent_id text NOT NULL,
    deployment_id text NOT NULL,
    runtime_provider text NOT NULL,
    at_ms bigint NOT NULL,
    source text NOT NULL,
    invocation_id text,
    event_id text,
    trace_id text,
    error_class text,
    requests bigint NOT NULL,
    llm_tokens bigint NOT NULL,
    compute_ms bigint NOT NULL,
    tool_calls bigint NOT NULL,
    errors bigint NOT NULL,
    cost_picodollars numeric NOT NULL,
    provider bytea,
    PRIMARY KEY (generation, key)
) WITH (fillfactor = 70);
CREATE INDEX usage_events_recent ON usage_events (generation, user_id, at_ms);
CREATE TABLE billing_usage (
    generation integer NOT NULL,
    user_id text NOT NULL,
    period_key text NOT NULL,
    runtime_provider text NOT NULL,
    reports bigint NOT NULL,
    requests numeric NOT NULL,
    llm_tokens numeric NOT NULL,
    compute_ms numeric NOT NULL,
    tool_calls numeric NOT NULL,
    errors numeric NOT NULL,
    cost_picodollars numeric NOT NULL,
    updated_at_ms bigint NOT NULL,
    PRIMARY KEY (generation, user_id, period_key, runtime_provider)
) WITH (fillfactor = 50);
CREATE TABLE totals_due (
    user_id text NOT NULL,
    period_key text NOT NULL,
    generation integer NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (user_id, period_key)
);
CREATE TABLE accounts (
    user_id text PRIMARY KEY,
    version integer NOT NULL,
    tier text NOT NULL
);
"""


def upgrade() -> None:
    op.execute(EVENT_TABLES_SQL)
    op.execute(TABLES_SQL)
