"""What the role of this service may do with its tables; everything else is refused."""

from webhost_kit.database.privileges import ALL, KEEP, QUEUE, STATES_FACTS

TABLES = {
    **STATES_FACTS,
    "deployments": KEEP,
    "agent_teardowns": KEEP,
    "rate_limits": ALL,
    "agent_secrets": KEEP,
    "secrets": ALL,
    "secret_operations": QUEUE,
    "secret_updates": ALL,
    "front_updates": ALL,
    "installation_keys": KEEP,
}
