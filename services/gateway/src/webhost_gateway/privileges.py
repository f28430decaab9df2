"""What the role of this service may do with its tables; everything else is refused."""

from webhost_kit.database.privileges import ALL, PROJECTS

TABLES = {
    **PROJECTS,
    "leases": ALL,
    "quotas": ALL,
    "key_quotas": ALL,
    "invocations": ALL,
    "idempotency": ALL,
    "usage_outbox": ALL,
    "routed_accounts": ALL,
    "routed_agents": ALL,
    "routed_deployments": ALL,
    "routed_keys": ALL,
}
