"""The feed of settled usage, for systems outside: what billing hands over, and how it is written.

An entry is the usage of one invocation, stated once it is settled; what changes later is an entry
with an id of its own that holds the difference. The sum of all entries is the usage. On HTTP and in
files an entry is a CloudEvent (1.0, JSON), see docs/runbooks/usage-feed.md.
"""

from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from webhost_contracts.usage_rpc import Counters
from webhost_contracts.wire import Wire

BATCH_TYPE = "application/cloudevents-batch+json"
EVENT_TYPE = "systems.webhost.usage.v1"
"""Of entries and corrections alike: a meter that sums events of this type is right."""

DEFAULT_LIMIT = 100
MOST = 500
"""Entries of one page."""


class FeedEntry(Wire, frozen=True, kw_only=True):
    """One entry. `source` says who has reported: `gateway`, `worker` or `both`.

    The counters of a correction are what is to be added, and may be negative.
    """

    id: str
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    period_key: str
    at_ms: int
    source: str
    counters: Counters
    invocation_id: str | None = None
    key_id: str | None = None
    correction_of: str | None = None


class Refusal(Wire, frozen=True, kw_only=True):
    """Why there is no page, and what to do; the message is safe, for display."""

    reason: Literal["invalid", "expired", "other_history", "removed"]
    message: str


class UsageFeedRequest(Wire, frozen=True, kw_only=True):
    """A page of the feed: what follows a cursor, or all that is kept; up to `until`, if given.

    With a period, only its entries are returned; the page's bound counts what was read.
    """

    after: str | None = None
    until: str | None = None
    limit: int = DEFAULT_LIMIT
    period_key: str | None = None


class UsageFeedReply(Wire, frozen=True, kw_only=True):
    """The entries, the cursor behind them, and whether more are there by now.

    `source` names the installation; `read` is how many entries the page is made of.
    """

    source: str = ""
    entries: tuple[FeedEntry, ...] = ()
    next: str = ""
    more: bool = False
    read: int = 0
    refused: Refusal | None = None


class UsageExportRequest(Wire, frozen=True, kw_only=True):
    """An operator is about to read a period's entries."""

    period_key: str


class UsageExportReply(Wire, frozen=True, kw_only=True):
    """Where an export ends, as of one moment, and what has to come out of it.

    `entries` are to be read in all, `settled` is what the period's come to, and `waiting` are
    invocations of the period that are not settled yet.
    """

    end: str = ""
    entries: int = 0
    settled: Counters = Counters()
    waiting: int = 0
    refused: Refusal | None = None


class UsageData(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The data of a CloudEvent. The cost is exact: an integer, as text, of 10^-12 USD."""

    agent_id: str
    deployment_id: str
    runtime_provider: str
    period_key: str
    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    cost_picodollars: str
    source: str
    invocation_id: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    correction_of: str | UnsetType = UNSET


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as a CloudEvent: `source` is the installation, `subject` the user."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str = EVENT_TYPE
    time: str
    subject: str
    datacontenttype: str = "application/json"
    data: UsageData


def cloud_event(entry: FeedEntry, source: str) -> CloudEvent:
    """Return the entry as a CloudEvent of this installation. Its time is that of the call."""
    counters = entry.counters
    return CloudEvent(
        id=entry.id,
        source=source,
        time=time_text(entry.at_ms),
        subject=entry.user_id,
        data=UsageData(
            agent_id=entry.agent_id,
            deployment_id=entry.deployment_id,
            runtime_provider=entry.runtime_provider,
            period_key=entry.period_key,
            requests=counters.requests,
            llm_tokens=counters.llm_tokens,
            compute_ms=counters.compute_ms,
            tool_calls=counters.tool_calls,
            errors=counters.errors,
            cost_picodollars=str(counters.cost_picodollars),
            source=entry.source,
            invocation_id=entry.invocation_id or UNSET,
            key_id=entry.key_id or UNSET,
            correction_of=entry.correction_of or UNSET,
        ),
    )


def time_text(at_ms: int) -> str:
    """Return an instant (Unix milliseconds) as RFC 3339 has it, in UTC."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
