"""What the role of this service may do with its tables; everything else is refused."""

from webhost_kit.database.privileges import ALL, APPEND, KEEP, QUEUE, READ, STATES_FACTS

TABLES = {
    **STATES_FACTS,
    "generations": READ | {"UPDATE"},
    "invocations": ALL,
    "usage_events": ALL,
    "billing_usage": ALL,
    "usage_series": ALL,
    "totals_due": ALL,
    "periods": KEEP,
    "sealed_usage": APPEND,
    "partition_seals": KEEP,
    "late_reports": QUEUE,
    "rebuilds": QUEUE,
    "rebuild_checkpoints": ALL,
    "accounts": KEEP,
    "subscriptions": KEEP,
    "webhook_deliveries": QUEUE,
    "usage_feed": QUEUE,
    "usage_unsettled": ALL,
    "feed_heads": KEEP,
}
