"""Requests to billing about usage, and their replies (see `webhost_contracts.rpc`)."""

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
    `left_out` more rows are not named. `held_back_ms` is how long live usage waited at the end.
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
    held_back_ms: int = 0


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
