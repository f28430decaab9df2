"""Names on the bus: a literal subject for each aggregate, the user first. What would make many
shares one: an agent's deployments and teardown, and what of a user's was refused, by kind.

One tenant is one prefix, which can be replayed, exported or purged alone. The type of a message
is a header, never a part of its subject.
"""

import hashlib
from functools import lru_cache

EVENTS = "EVENTS"
USAGE = "USAGE"
COMMANDS = "COMMANDS"
DEAD_LETTERS = "DEADLETTERS"
TOTALS_BUCKET = "TOTALS"
ARTIFACTS_BUCKET = "ARTIFACTS"
TOTALS_STREAM = f"KV_{TOTALS_BUCKET}"
ARTIFACTS_STREAM = f"OBJ_{ARTIFACTS_BUCKET}"
"""A bucket is a stream of this name."""

PARTITIONS = 16
GATEWAY = "gateway"
TELEMETRY_INGEST = "telemetry-ingest"

OWNERS = {
    "user": "api",
    "agent": "api",
    "key": "api",
    "deployment": "deployer",
    "teardown": "deployer",
    "secret": "deployer",
    "account": "billing",
    "period": "billing",
    "delegation": GATEWAY,
    "invocation": GATEWAY,
    "telemetry": TELEMETRY_INGEST,
    "report": TELEMETRY_INGEST,
}
"""The one service that states facts of this kind. The bus lets no other publish them."""

ALL_EVENTS = "evt.>"
ALL_USAGE = "usage.>"
ALL_COMMANDS = "cmd.>"
ALL_DEAD_LETTERS = "dead.>"

TYPE_HEADER = "Webhost-Type"
MESSAGE_ID_HEADER = "Nats-Msg-Id"
DEAD_REASON_HEADER = "Webhost-Dead-Reason"
TRACE_HEADER = "traceparent"
"""The trace context (W3C) in which a message or request is sent; where it has one."""

RPC_USAGE = "rpc.billing.usage"
RPC_RECENT_EVENTS = "rpc.billing.recent-events"
RPC_USAGE_SERIES = "rpc.billing.usage-series"
RPC_INVOICE = "rpc.billing.invoice"
RPC_REBUILD = "rpc.billing.rebuild"
RPC_USAGE_FEED = "rpc.billing.usage-feed"
RPC_USAGE_EXPORT = "rpc.billing.usage-export"
RPC_SILENT_AGENTS = "rpc.billing.silent-agents"
RPC_SET_TIER = "rpc.billing.set-tier"
RPC_SET_ACCOUNT_STATUS = "rpc.billing.set-account-status"
RPC_VERIFY = "rpc.billing.verify"
RPC_LATE_REPORTS = "rpc.billing.late-reports"
RPC_CHECKOUT = "rpc.billing.checkout"
RPC_WEBHOOK = "rpc.billing.webhook"
RPC_SUBSCRIPTION = "rpc.billing.subscription"
RPC_RECONCILE_SUBSCRIPTIONS = "rpc.billing.reconcile-subscriptions"
RPC_ASSIGN_SUBSCRIPTION = "rpc.billing.assign-subscription"
RPC_SECRETS = "rpc.deployer.secrets"
RPC_SET_SECRETS = "rpc.deployer.set-secrets"
RPC_DELETE_SECRETS = "rpc.deployer.delete-secrets"
RPC_RECONCILE = "rpc.deployer.reconcile"
RPC_PLACEMENT = "rpc.deployer.placement"
RPC_REVOKE_TELEMETRY_KEY = "rpc.deployer.revoke-telemetry-key"


def event(user_id: str, kind: str, aggregate_id: str) -> str:
    """Return the subject of one aggregate's events."""
    return f"evt.{user_id}.{kind}.{aggregate_id}"


def events_of_kind(kind: str) -> str:
    """Return the filter that selects one kind of aggregate of all users."""
    return f"evt.*.{kind}.*"


def usage_packets(partition: int, producer: str) -> str:
    """Return the subject of the packets that one producer sends to one partition.

    The producer is `GATEWAY` or `TELEMETRY_INGEST`, so that each can state only its own kind.
    """
    return f"usage.{partition}.{producer}"


def usage_partition(partition: int) -> str:
    """Return the filter that selects all usage of one partition."""
    return f"usage.{partition}.*"


def packet_partition(subject: str) -> int:
    """Return the partition to which the packets on this subject belong."""
    return int(subject.split(".")[1])


@lru_cache(maxsize=16_384)
def partition_of(user_id: str) -> int:
    """Return the partition of a user's usage, from 0 to PARTITIONS - 1; it never changes."""
    return hashlib.blake2b(user_id.encode(), digest_size=2).digest()[0] % PARTITIONS


def holds(subject: str, kind: str, user_id: str) -> bool:
    """Say whether facts of this kind about this user may stand on a subject.

    The subject must be of the kind's owner, and of the user, or of the user's partition.
    """
    match subject.split("."):
        case ["evt", user, on, _]:
            return user == user_id and kind in OWNERS and OWNERS.get(on) == OWNERS[kind]
        case ["usage", partition, producer]:
            is_theirs = partition == str(partition_of(user_id))
            return is_theirs and OWNERS.get(kind) == producer
        case _:
            return False


def command(service: str, verb: str, aggregate_id: str) -> str:
    """Return the subject of a command to `service`."""
    return f"cmd.{service}.{verb}.{aggregate_id}"


def commands_to(service: str, verb: str) -> str:
    """Return the filter that selects all commands of one verb to `service`."""
    return f"cmd.{service}.{verb}.*"


def dead_letter(subject: str) -> str:
    """Return the subject for a message that no handler could handle."""
    return f"dead.{subject}"


def totals_key(user_id: str, period_key: str) -> str:
    """Return the key of one user's totals of one period in the totals bucket."""
    return f"{user_id}.{period_key}"
