"""Requests between services and their replies, with a short timeout.

When the other service is away, only that request is answered UNAVAILABLE; the rest keeps working.
"""

from webhost_contracts.events.base import Json
from webhost_contracts.wire import Wire


class UsageRequest(Wire, frozen=True, kw_only=True):
    """What a user used in a period."""

    user_id: str
    period_key: str


class Counters(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Summed counters. The cost is an estimate, in picodollars (10^-12 USD), exact."""

    requests: int = 0
    llm_tokens: int = 0
    compute_ms: int = 0
    tool_calls: int = 0
    errors: int = 0
    cost_picodollars: int = 0


class UsageReply(Wire, frozen=True, kw_only=True):
    """The totals, and the same by runtime provider; zeros where there is nothing."""

    usage: Counters
    by_runtime: dict[str, Counters]
    updated_at_ms: int


class RecentEventsRequest(Wire, frozen=True, kw_only=True):
    """Which calls of a user were counted lately, newest first."""

    user_id: str
    agent_id: str | None = None
    since_ms: int = 0
    limit: int = 25
    errors_only: bool = False


class UsageEvent(Wire, frozen=True, kw_only=True):
    """One counted call or report, after both of its sides were merged."""

    id: str
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    timestamp_ms: int
    counters: Counters
    source: str
    invocation_id: str | None = None
    event_id: str | None = None
    trace_id: str | None = None
    key_id: str | None = None
    error_class: str | None = None
    provider: Json | None = None


class RecentEventsReply(Wire, frozen=True, kw_only=True):
    """The events, newest first."""

    events: tuple[UsageEvent, ...]


class SetTierRequest(Wire, frozen=True, kw_only=True):
    """An operator puts a user on a tier, as `webhost users set-tier` asks for it."""

    user_id: str
    tier: str
    operator: str


class SetTierReply(Wire, frozen=True, kw_only=True):
    """The user's tier after the change, or why the change was refused."""

    tier: str | None = None
    refused: str | None = None


class RebuildRequest(Wire, frozen=True, kw_only=True):
    """An operator asks billing to rebuild usage from the stream, by default all of it.

    A dry run reports what differs and changes nothing.
    """

    dry_run: bool = False
    user_id: str | None = None
    period_key: str | None = None


class Difference(Wire, frozen=True, kw_only=True):
    """One row of usage that is not what the stream says."""

    user_id: str
    period_key: str
    runtime_provider: str
    live: Counters | None
    rebuilt: Counters | None


class RebuildProgress(Wire, frozen=True, kw_only=True):
    """One line of a rebuild's answer; the last one has `done` or `refused`.

    `processed` and `total` count messages of the stream, over all processes that fold it.
    """

    processed: int
    total: int
    done: bool = False
    swapped: bool = False
    differences: tuple[Difference, ...] = ()
    refused: str | None = None


class ReconcileRequest(Wire, frozen=True, kw_only=True):
    """An operator asks the deployer to reconcile its Cloudflare account now.

    A dry run reports what would be removed, and changes nothing.
    """

    dry_run: bool = False


class ReconcileReply(Wire, frozen=True, kw_only=True):
    """The drift: scripts and routes that no deployment owns, and deployments whose script is gone.

    `removed` says whether scripts and routes were removed. The names of `left_out` more are not
    listed.
    """

    scripts: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: int = 0
    removed: bool = False
    refused: str | None = None
