"""Requests between services and their replies, with a short timeout.

When the other service is away, only that request is answered UNAVAILABLE; the rest keeps working.
"""

from typing import Literal

from webhost_contracts.buckets import Bucket
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


class SeriesRequest(Wire, frozen=True, kw_only=True):
    """What a user used in each bucket that starts from `from_ms` on and before `to_ms`.

    All agents, deployments and runtime providers, unless one is named.
    """

    user_id: str
    bucket: Bucket
    from_ms: int
    to_ms: int
    agent_id: str | None = None
    deployment_id: str | None = None
    runtime_provider: str | None = None


class SeriesPoint(Wire, frozen=True, kw_only=True):
    """What was used in the bucket that starts at `start_ms`."""

    start_ms: int
    counters: Counters


class SeriesReply(Wire, frozen=True, kw_only=True):
    """The buckets in which something was used, in order; the first ones, where it is too many."""

    points: tuple[SeriesPoint, ...]


class InvoiceRequest(Wire, frozen=True, kw_only=True):
    """What a user's usage of a period comes to, by agent and day."""

    user_id: str
    period_key: str


class PriceInForce(Wire, frozen=True, kw_only=True, order=True):
    """Prices in micro-dollars (10^-6 USD), and since when they hold."""

    effective_from_ms: int
    request: int
    million_compute_ms: int
    million_tokens: int


class InvoiceLine(Wire, frozen=True, kw_only=True):
    """What one agent used on one day (`YYYY-MM-DD`, in UTC) under one runtime provider.

    `price` is the place of the day's price among the reply's. Without an agent it is the sum of the
    agents that have no lines of their own.
    """

    day: str
    agent_id: str | None = None
    runtime_provider: str
    price: int
    counters: Counters


class InvoiceReply(Wire, frozen=True, kw_only=True):
    """The lines by agent and day, the period's usage, which is their sum, and the prices.

    `other_agents` is how many agents have no lines of their own: those that cost least, where
    otherwise there would be too many lines.
    """

    usage: Counters
    updated_at_ms: int
    lines: tuple[InvoiceLine, ...]
    prices: tuple[PriceInForce, ...]
    other_agents: int = 0


class SilentAgentsRequest(Wire, frozen=True, kw_only=True):
    """Whose calls were counted without a report of their Workers in the last hours.

    Agents with fewer than `at_least` calls are left out. At most a week, and 1,000 agents.
    """

    hours: int = 24
    at_least: int = 10
    limit: int = 50


class SilentAgent(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """How many calls of an agent the gateway reported, and for how many of them nobody else did."""

    user_id: str
    agent_id: str
    invocations: int
    silent: int


class SilentAgentsReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The same of all agents together, and the agents with the highest shares first.

    Calls of the last minute are left out: their reports may still be on the way.
    """

    invocations: int
    silent: int
    agents: tuple[SilentAgent, ...] = ()


class SetTierRequest(Wire, frozen=True, kw_only=True):
    """An operator puts a user on a tier, as `webhost users set-tier` asks for it."""

    user_id: str
    tier: str
    operator: str


class SetTierReply(Wire, frozen=True, kw_only=True):
    """The user's tier after the change, or why the change was refused."""

    tier: str | None = None
    refused: str | None = None


AccountStatus = Literal["enabled", "disabled"]


class SetAccountStatusRequest(Wire, frozen=True, kw_only=True):
    """An operator disables or enables an account, as `webhost users disable` asks for it."""

    user_id: str
    status: AccountStatus
    operator: str
    reason: str | None = None


class SetAccountStatusReply(Wire, frozen=True, kw_only=True):
    """The account's status after the change, or why the change was refused.

    While it `waits`, the change is recorded, not published, and so in force nowhere.
    """

    status: AccountStatus | None = None
    waits: bool = False
    refused: str | None = None


class RebuildRequest(Wire, frozen=True, kw_only=True):
    """An operator asks billing to rebuild usage from the stream, by default all of it.

    A dry run reports what differs and changes nothing.
    """

    dry_run: bool = False
    user_id: str | None = None
    period_key: str | None = None


class Difference(Wire, frozen=True, kw_only=True):
    """One row of usage that is not what the stream says.

    With a `bucket` it is one of the series: of this deployment, in the bucket from `start_ms` on.
    """

    user_id: str
    period_key: str
    runtime_provider: str
    live: Counters | None
    rebuilt: Counters | None
    bucket: Bucket | None = None
    start_ms: int | None = None
    agent_id: str | None = None
    deployment_id: str | None = None


class RebuildProgress(Wire, frozen=True, kw_only=True):
    """One line of a rebuild's answer; the last one has `done` or `refused`.

    `processed` and `total` count messages of the stream, over all processes that fold it; with
    `resumed`, so many of them were folded by a rebuild that was interrupted. `sealed` are rows that
    were sealed with other numbers (`live`) than the stream comes to (`rebuilt`): the seals stand.
    `left_out` more rows are not named.
    """

    processed: int
    total: int
    done: bool = False
    swapped: bool = False
    differences: tuple[Difference, ...] = ()
    refused: str | None = None
    resumed: int = 0
    sealed: tuple[Difference, ...] = ()
    left_out: int = 0


class VerifyRequest(Wire, frozen=True, kw_only=True):
    """An operator asks whether usage, seals and checkpoints hold together."""


class VerifyReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """What does not hold together, in sentences; nothing where all is well.

    `left_out` more problems are not named. The rest says how much was compared: sealed periods,
    rows of usage, and single invocations of open periods.
    """

    problems: tuple[str, ...] = ()
    left_out: int = 0
    sealed: int = 0
    rows: int = 0
    invocations: int = 0


class LateReportsRequest(Wire, frozen=True, kw_only=True):
    """Which reports came behind their period's seal, and so do not count, newest first."""

    user_id: str | None = None
    limit: int = 100


class LateReport(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A report that came too late, as it was on the stream. `id` is the invocation's, or the
    event's in a Worker's report.
    """

    user_id: str
    agent_id: str
    deployment_id: str
    period_key: str
    timestamp_ms: int
    recorded_at_ms: int
    source: str
    requests: int
    llm_tokens: int
    compute_ms: int
    id: str | None = None


class LateReportsReply(Wire, frozen=True, kw_only=True):
    """The reports, newest first."""

    reports: tuple[LateReport, ...]


class SecretsRequest(Wire, frozen=True, kw_only=True):
    """Which of an agent's secrets are set."""

    user_id: str
    agent_id: str


class SecretsReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """When each secret that has a value was set, by name, and the version of them all."""

    version: int
    set_at_ms: dict[str, int]


class ChangeSecretsRequest(Wire, frozen=True, kw_only=True):
    """What the requests that change an agent's secrets share.

    `active_deployment_id` is brought up first.
    """

    user_id: str
    agent_id: str
    actor: str
    active_deployment_id: str | None = None
    request_id: str | None = None
    traceparent: str | None = None


class SetSecretsRequest(ChangeSecretsRequest, frozen=True, kw_only=True):
    """Give these secrets new values, each sealed for the deployer, by name.

    The same `operation` again is the same request, whatever its sealed values look like. At most
    `changes_a_day` changes of one agent's secrets are made in a day, None without end.
    """

    sealed: dict[str, str]
    operation: str
    changes_a_day: int | None = None


class DeleteSecretsRequest(ChangeSecretsRequest, frozen=True, kw_only=True):
    """Delete the values of these secrets; one that has none is left as it is."""

    keys: tuple[str, ...]


class ChangeSecretsReply(Wire, frozen=True, kw_only=True):
    """The version of the agent's secrets after the change, or why there was none: the agent is
    `gone`, or as many changes as are allowed were made, until `full_until_ms`.
    """

    version: int = 0
    gone: bool = False
    full_until_ms: int | None = None


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


class RevokeTelemetryKeyRequest(Wire, frozen=True, kw_only=True):
    """An operator revokes a deployment's telemetry key; the deployment gets the next one.

    Without `generation` the key that it has now is meant, and the reply says which that is. The
    same request again, with it, only says how far the work is.
    """

    deployment_id: str
    operator: str
    generation: int | None = None


class RevokeTelemetryKeyReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The generation that is revoked, whether that is in force, and whether the deployment's front
    has its next key (also where it has no front any more); or why not.
    """

    generation: int = 0
    revoked: bool = False
    front_has_next: bool = False
    refused: str | None = None
