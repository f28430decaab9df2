"""billing's own tables, from which the first migration makes them.

`invocations`, `usage_events` and `billing_usage` are a fold of USAGE and can be thrown away. They
hold several generations: `generations` names the live one, a rebuild creates another.
"""

from typing import Any

import sqlalchemy as sa
from webhost_kit.eventsourcing.store import event_tables

metadata = sa.MetaData()
event_tables(metadata)

COUNTERS = ("requests", "llm_tokens", "compute_ms", "tool_calls", "errors", "cost_picodollars")


def _counters(kind: type[sa.Numeric[int]] | type[sa.BigInteger]) -> list[sa.Column[Any]]:
    cost = sa.Column("cost_picodollars", sa.Numeric, nullable=False)
    return [*(sa.Column(name, kind, nullable=False) for name in COUNTERS[:-1]), cost]


def _fillfactor(fillfactor: int) -> dict[str, Any]:
    """Fill pages only this far: an updated row stays on its own page, and indexes are untouched."""
    return {"postgresql_with": {"fillfactor": fillfactor}}


generations = sa.Table(
    "generations",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("live", sa.Integer, nullable=False),
    sa.Column("newest", sa.Integer, nullable=False),
)

# What is known of each invocation, and, in `charged_period` and the counters, what was charged
# for it: to its user, under its runtime provider.
invocations = sa.Table(
    "invocations",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("trace_id", sa.Text),
    sa.Column("key_id", sa.Text),
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
    sa.Column("charged_period", sa.Text, nullable=False),
    sa.Column("charged_runtime", sa.Text, nullable=False),
    *_counters(sa.BigInteger),
    **_fillfactor(70),
)

usage_events = sa.Table(
    "usage_events",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
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
    sa.Column("key_id", sa.Text),
    sa.Column("error_class", sa.Text),
    *_counters(sa.BigInteger),
    sa.Column("provider", sa.LargeBinary),
    sa.Index("usage_events_recent", "generation", "user_id", "at_ms"),
    # Rows come nearly in the order of time, so this costs a fold nothing.
    sa.Index("usage_events_by_time", "at_ms", postgresql_using="brin"),
    **_fillfactor(70),
)

# `invocations` is how many are charged to a row; one that all of them have left is not there for
# a reader. The key begins with the partition: its fold reads its users' totals by it.
billing_usage = sa.Table(
    "billing_usage",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("runtime_provider", sa.Text, primary_key=True),
    sa.Column("invocations", sa.BigInteger, nullable=False),
    *_counters(sa.Numeric),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    **_fillfactor(50),
)

# Totals that changed, by generation and sequence of the fold, and are not published yet.
totals_due = sa.Table(
    "totals_due",
    metadata,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)

# What was decided about a user's period. It has no generation: a rebuild decides nothing.
# `reached` are the thresholds that were stated, each `<limit type>/<limit>/<percent>`.
periods = sa.Table(
    "periods",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("reached", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
)
