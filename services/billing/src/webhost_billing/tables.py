"""billing's own tables; `migrations/` makes them, a test holds the two together.

`reports`, `usage_events` and `billing_usage` are a fold of USAGE and can be thrown away. They
hold generations beside each other: `generations` says which one is live, a rebuild makes another.
"""

import sqlalchemy as sa
from webhost_kit.eventsourcing.store import event_tables

metadata = sa.MetaData()
event_tables(metadata)


def _counters(kind: type[sa.Numeric[int]] | type[sa.BigInteger]) -> list[sa.Column[int]]:
    names = ("requests", "llm_tokens", "compute_ms", "tool_calls", "errors")
    return [sa.Column(name, kind, nullable=False) for name in names]


generations = sa.Table(
    "generations",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("live", sa.Integer, nullable=False),
    sa.Column("newest", sa.Integer, nullable=False),
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("trace_id", sa.Text),
    sa.Column("error_class", sa.Text),
    sa.Column("invocation_id", sa.Text),
    sa.Column("gateway_errors", sa.BigInteger),
    sa.Column("wall_ms", sa.BigInteger),
    sa.Column("event_id", sa.Text),
    sa.Column("worker_requests", sa.BigInteger),
    sa.Column("worker_llm_tokens", sa.BigInteger),
    sa.Column("worker_compute_ms", sa.BigInteger),
    sa.Column("worker_tool_calls", sa.BigInteger),
    sa.Column("worker_errors", sa.BigInteger),
)

usage_events = sa.Table(
    "usage_events",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("invocation_id", sa.Text),
    sa.Column("event_id", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("error_class", sa.Text),
    *_counters(sa.BigInteger),
    sa.Column("cost_picodollars", sa.Numeric, nullable=False),
    sa.Column("provider", sa.LargeBinary),
    sa.Index("usage_events_recent", "generation", "user_id", "at_ms"),
)

billing_usage = sa.Table(
    "billing_usage",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("runtime_provider", sa.Text, primary_key=True),
    sa.Column("reports", sa.BigInteger, nullable=False),
    *_counters(sa.Numeric),
    sa.Column("cost_picodollars", sa.Numeric, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

totals_due = sa.Table(
    "totals_due",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
)
