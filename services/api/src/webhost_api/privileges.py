"""What the role of this service may do with its tables; everything else is refused."""

from webhost_kit.database.privileges import ALL, KEEP, QUEUE, STATES_FACTS

TABLES = {
    **STATES_FACTS,
    "users": KEEP,
    "accounts": KEEP,
    "agents": KEEP,
    "deployments": KEEP,
    "api_keys": KEEP,
    "idempotency": QUEUE,
    "idempotency_claims": QUEUE,
    "artifacts": ALL,
    "uploads": QUEUE,
    "history": ALL,
    "agent_events": KEEP,
}

BY_USER = {
    *("users", "accounts", "agents", "deployments", "api_keys", "idempotency"),
    *("idempotency_claims", "uploads", "history", "agent_events", "events"),
}
"""Where policies keep users' rows apart."""
