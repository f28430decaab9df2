"""What has to be audited, by the facts that say so: the tests' own list."""

AUDITED = {
    "agent.created.v1": "agent.created",
    "agent.updated.v1": "agent.updated",
    "agent.disabled.v1": "agent.disabled",
    "agent.enabled.v1": "agent.enabled",
    "agent.deleted.v1": "agent.deleted",
    "agent.deployment_requested.v1": "deployment.requested",
    "agent.deployment_activated.v1": "deployment.activated",
    "agent.deployment_retired.v1": "deployment.retired",
    "deployment.succeeded.v1": "deployment.succeeded",
    "deployment.failed.v1": "deployment.failed",
    "deployment.torn_down.v1": "deployment.torn_down",
    "teardown.finished.v1": "agent.torn_down",
    "secret.set.v1": "secrets.set",
    "secret.deleted.v1": "secrets.deleted",
    "account.tier_changed.v1": "tier.changed",
    "account.disabled.v1": "account.disabled",
    "account.enabled.v1": "account.enabled",
    "key.created.v1": "key.created",
    "key.rotated.v1": "key.rotated",
    "key.revoked.v1": "key.revoked",
}
