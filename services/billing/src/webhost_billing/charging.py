"""Pure: what an invocation costs, given what is known about it.

| known          | requests, errors | tokens, tool calls | compute                              |
|----------------|------------------|--------------------|--------------------------------------|
| gateway only   | 1, the gateway's | 0                  | wall time, 0 where it is unknown     |
| Worker only    | the Worker's     | the Worker's       | the Worker's                         |
| both           | 1, the gateway's | the Worker's       | the Worker's, at most wall + 1 s, at |
|                |                  |                    | least MIN_COMPUTE_PERCENT of wall    |

Where the gateway died during the call, wall time is unknown: the Worker's compute then counts up
to the longest call allowed, plus that second.

No runtime measures a call's compute for us so far. What a Worker reports is the time by its front's
clock, which stands still while code computes, so it may be next to nothing: hence the least part of
the wall time, which the gateway measures. An honest report is nearly all of it.

A charge is stored with its invocation. When the other side reports, the stored charge is reversed
and the whole invocation is charged once, by the rules in force then. So a change of rules never
makes a total wrong; calls that were complete before it keep their charge. A rebuild charges every
call by the rules in force when it runs. The price book is append-only and prices apply by the time
of the call, so new prices do not change the result of a rebuild; a different longest call does, for
calls whose gateway died, and so does a different least part of the wall time. The rebuild shows it.
"""

import bisect
import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from importlib import resources
from pathlib import Path

import msgspec
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import Counters

from webhost_billing.model import Invocation
from webhost_billing.seals.decisions import SEAL_DELAY_MS

SLACK_MS = 1_000
MIDNIGHT = time()
"""Prices change then alone, so that a day has one price."""
PICO_PER_MICRO = 1_000_000


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in micro-dollars (10^-6 USD), in force from this midnight (UTC) on."""

    effective_from: datetime
    request: int
    million_compute_ms: int
    million_tokens: int


class _PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prices: tuple[Price, ...]


class PricesError(ValueError):
    """The price book cannot be used; the message says where and why."""


class PriceBook:
    """Prices by the time from which they hold. A price that was in force never changes."""

    def __init__(self, prices: Sequence[Price]) -> None:
        self.entries = tuple(prices)
        self._from_ms = [int(price.effective_from.timestamp() * 1000) for price in prices]

    def at(self, at_ms: int) -> Price:
        """Return the price in force at this time; before the first one, the first one."""
        return self.entries[max(bisect.bisect_right(self._from_ms, at_ms) - 1, 0)]

    def picodollars(self, at_ms: int, requests: int, compute_ms: int, tokens: int) -> int:
        """Return the exact cost in picodollars (10^-12 USD)."""
        price = self.at(at_ms)
        # Micro-dollars per million is picodollars for one.
        return (
            requests * price.request * PICO_PER_MICRO
            + compute_ms * price.million_compute_ms
            + tokens * price.million_tokens
        )


@dataclass(frozen=True)
class Rules:
    """What a charge depends on besides the invocation itself."""

    prices: PriceBook
    longest_call_ms: int
    """How long a call can last at most: LONGEST_CALL_S, which gateway, api and billing share."""
    min_compute_percent: int = 0
    """The least compute of a call that both report, in percent of its wall time, rounded up."""
    seal_delay_ms: int = SEAL_DELAY_MS
    """How long after its end a period is sealed, by the stream's time."""


class UsageRow(msgspec.Struct, frozen=True, order=True):
    """Which row of usage a charge belongs to."""

    user_id: str
    period_key: str
    runtime_provider: str


class Charge(msgspec.Struct, frozen=True):
    """What one invocation adds, and to which row."""

    row: UsageRow
    counters: Counters


def charge(invocation: Invocation, rules: Rules) -> Charge:
    """Return what this invocation adds, as far as it is known."""
    gateway, worker = invocation.gateway, invocation.worker
    tokens = worker.llm_tokens if worker else 0
    compute_ms = _compute_ms(invocation, rules)
    if gateway is not None:
        requests, errors = 1, gateway.errors
    else:
        requests, errors = (worker.requests, worker.errors) if worker else (0, 0)
    return Charge(
        UsageRow(invocation.user_id, period_key(invocation.at_ms), invocation.runtime_provider),
        Counters(
            requests=requests,
            llm_tokens=tokens,
            compute_ms=compute_ms,
            tool_calls=worker.tool_calls if worker else 0,
            errors=errors,
            cost_picodollars=rules.prices.picodollars(
                invocation.at_ms, requests, compute_ms, tokens
            ),
        ),
    )


def add(left: Counters, right: Counters) -> Counters:
    """Return the sums."""
    return _combine(left, right, 1)


def subtract(left: Counters, right: Counters) -> Counters:
    """Return the differences, which may be negative."""
    return _combine(left, right, -1)


def load_prices(path: Path | None = None) -> PriceBook:
    """Return the price book of this file, or the product's own. Raises PricesError."""
    where = path or "(built in)"
    try:
        text = (
            resources.files("webhost_billing").joinpath("prices.toml").read_text("utf-8")
            if path is None
            else path.read_text("utf-8")
        )
        prices = msgspec.convert(tomllib.loads(text), _PriceFile).prices
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PricesError(f"price file {where}: {error}") from error
    if problem := _problem(prices):
        raise PricesError(f"price file {where}: {problem}")
    return PriceBook(prices)


def _compute_ms(invocation: Invocation, rules: Rules) -> int:
    gateway, worker = invocation.gateway, invocation.worker
    if gateway is None:
        return worker.compute_ms if worker else 0
    if worker is None:
        return gateway.wall_ms or 0
    if gateway.wall_ms is None:
        return min(worker.compute_ms, rules.longest_call_ms + SLACK_MS)
    least = -(-gateway.wall_ms * rules.min_compute_percent // 100)
    return min(max(worker.compute_ms, least), gateway.wall_ms + SLACK_MS)


def _combine(left: Counters, right: Counters, sign: int) -> Counters:
    return Counters(
        requests=left.requests + sign * right.requests,
        llm_tokens=left.llm_tokens + sign * right.llm_tokens,
        compute_ms=left.compute_ms + sign * right.compute_ms,
        tool_calls=left.tool_calls + sign * right.tool_calls,
        errors=left.errors + sign * right.errors,
        cost_picodollars=left.cost_picodollars + sign * right.cost_picodollars,
    )


def _problem(prices: Sequence[Price]) -> str | None:
    times = [price.effective_from for price in prices]
    if not times:
        return "it has no prices"
    if any(each.utcoffset() != timedelta() for each in times):
        return "effective_from must be a time in UTC, such as 2026-01-01T00:00:00Z"
    if any(each.time() != MIDNIGHT for each in times):
        return "effective_from must be a midnight in UTC, such as 2026-01-01T00:00:00Z"
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        return "effective_from must rise from entry to entry"
    if any(min(p.request, p.million_compute_ms, p.million_tokens) < 0 for p in prices):
        return "a price must not be negative"
    return None
