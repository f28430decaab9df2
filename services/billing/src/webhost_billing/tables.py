"""billing's own tables, from which the first migration makes them.

`invocations`, `usage_events`, `billing_usage` and `usage_series` are a fold of USAGE and can be
thrown away. They hold several generations: `generations` names the live one, a rebuild creates
another. What billing stated, `periods` and `sealed_usage`, has none, and no rebuild changes it.
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
    # How often a rebuild of a part changed rows of the live generation.
    sa.Column("corrections", sa.Integer, nullable=False, server_default="0"),
    # The last closed period whose invocations were removed from the live generation.
    sa.Column("forgotten_through", sa.Text, nullable=False, server_default=""),
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
    sa.Index("usage_events_of_agent", "generation", "agent_id", "at_ms"),
    sa.Index(
        "usage_events_with_errors",
        *("generation", "user_id", "at_ms"),
        postgresql_where=sa.text("errors > 0"),
    ),
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

# What was charged for the calls that were admitted in a minute, hour or day: of these, the sums of
# `billing_usage`. The key is in the order in which one user's rows of some time are read.
usage_series = sa.Table(
    "usage_series",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("bucket", sa.Text, primary_key=True),
    sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("runtime_provider", sa.Text, primary_key=True),
    sa.Column("invocations", sa.BigInteger, nullable=False),
    *_counters(sa.Numeric),
    sa.Index("usage_series_old", "bucket", "start_ms", postgresql_where=sa.text("bucket <> 'day'")),
    **_fillfactor(70),
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

# What billing stated about a user's period. It has no generation: a rebuild decides nothing.
# `reached` are the thresholds that were stated, each `<limit type>/<limit>/<percent>`; then, if it
# is sealed, where its reports end to count.
periods = sa.Table(
    "periods",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("reached", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("sealed_at_sequence", sa.BigInteger),
)

# What a user's period was sealed with.
sealed_usage = sa.Table(
    "sealed_usage",
    metadata,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("period_key", sa.Text, primary_key=True),
    sa.Column("runtime_provider", sa.Text, primary_key=True),
    sa.Column("invocations", sa.BigInteger, nullable=False),
    *_counters(sa.Numeric),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

# Where the periods up to `through` are closed in a partition. One that is not `applied` was stated
# before this database was restored to an earlier time: the fold has yet to come there.
partition_seals = sa.Table(
    "partition_seals",
    metadata,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("through", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("stream_created_at", sa.Text, nullable=False),
    sa.Column("applied", sa.Boolean, nullable=False),
)

late_reports = sa.Table(
    "late_reports",
    metadata,
    sa.Column("stream_created_at", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("recorded_at_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("period_key", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("id", sa.Text),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("llm_tokens", sa.BigInteger, nullable=False),
    sa.Column("compute_ms", sa.BigInteger, nullable=False),
)

# Rebuilds that have not ended, and up to where each has folded: they go on after a kill.
rebuilds = sa.Table(
    "rebuilds",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text),
    sa.Column("period_key", sa.Text),
    sa.Column("rules", sa.Text, nullable=False),
    sa.Column("stream_created_at", sa.Text, nullable=False),
    sa.Column("begun_at_ms", sa.BigInteger, nullable=False),
)

rebuild_checkpoints = sa.Table(
    "rebuild_checkpoints",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("messages", sa.BigInteger, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("granted", sa.Text, nullable=False, server_default="free"),
)

# Whose a subscription is, as first seen, and its state; without `status` that is not known yet.
# `due_at_ms` is when it ends to give its tier by itself, and was not settled yet.
subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("subscription_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text),
    sa.Column("tier", sa.Text),
    sa.Column("variant_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    sa.Column("renews_at_ms", sa.BigInteger),
    sa.Column("ends_at_ms", sa.BigInteger),
    sa.Column("trial_ends_at_ms", sa.BigInteger),
    sa.Column("pause_mode", sa.Text),
    sa.Column("due_at_ms", sa.BigInteger),
    sa.Index("subscriptions_by_user", "user_id"),
    sa.Index("subscriptions_by_customer", "customer_id"),
    sa.Index("subscriptions_due", "due_at_ms", postgresql_where=sa.text("due_at_ms IS NOT NULL")),
)

# Deliveries of the payment provider that were processed, by the SHA-256 of their bodies in hex.
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("body_hash", sa.Text, primary_key=True),
    sa.Column("received_at_ms", sa.BigInteger, nullable=False),
    sa.Index("webhook_deliveries_by_age", "received_at_ms"),
)

# The feed of settled usage: what was published, in the order of each partition. No rebuild touches
# it, so it has no generation. Numbers are without gaps.
usage_feed = sa.Table(
    "usage_feed",
    metadata,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("settled_ms", sa.BigInteger, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("correction_of", sa.Text),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("runtime_provider", sa.Text, nullable=False),
    sa.Column("period_key", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("invocation_id", sa.Text),
    sa.Column("key_id", sa.Text),
    *_counters(sa.BigInteger),
)

# Invocations known from one side, since the time of their partition at their first report.
usage_unsettled = sa.Table(
    "usage_unsettled",
    metadata,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("partition", sa.SmallInteger, nullable=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Index("usage_unsettled_due", "partition", "since_ms"),
)

# Of each partition: the number of its newest entry and of the oldest that is kept, the newest time
# at which one that was removed had been settled, and the time of the partition.
feed_heads = sa.Table(
    "feed_heads",
    metadata,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("newest", sa.BigInteger, nullable=False),
    sa.Column("oldest", sa.BigInteger, nullable=False),
    sa.Column("removed_ms", sa.BigInteger, nullable=False),
    sa.Column("stream_ms", sa.BigInteger, nullable=False),
)
