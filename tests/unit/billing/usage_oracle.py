"""What usage must come to, worked out another way: a slow model that shares no rule with billing.

Integers only, its own calendar, no batches, no reversals: every report is looked at once, in the
stream's order, and each call is charged at the end from what was written down about it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Report:
    """One report. `side` is `gateway` or `worker`; `call` names the call within the deployment."""

    user: str
    deployment: str
    call: str
    side: str
    runtime: str
    at_ms: int
    errors: int = 0
    wall_ms: int | None = None
    requests: int = 0
    tokens: int = 0
    compute_ms: int = 0
    tool_calls: int = 0


@dataclass(frozen=True)
class Message:
    """A packet on the stream: its sequence, when the stream stored it, in which partition."""

    sequence: int
    stored_ms: int
    partition: int
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class Price:
    """Prices of one day and all later ones, until the next price: millionths of a dollar."""

    from_day: int
    request: int
    million_ms: int
    million_tokens: int


@dataclass
class _Call:
    gateway: Report | None = None
    worker: Report | None = None

    def month(self) -> tuple[int, int]:
        return month_of((self.gateway or self.worker).at_ms)


@dataclass
class Expected:
    """Sums by (user, year, month, runtime), in the order of SUMS; who was late, by place."""

    usage: dict[tuple[str, int, int, str], tuple[int, ...]] = field(default_factory=dict)
    late: list[tuple[int, int]] = field(default_factory=list)


SUMS = ("calls", "requests", "tokens", "compute", "tool calls", "errors", "picodollars")


def expected(
    stream: Iterable[Message], prices: Sequence[Price], longest_call_ms: int, delay_ms: int
) -> Expected:
    """What is to be charged for this stream."""
    result = Expected()
    newest: dict[int, int] = {}
    calls: dict[tuple[str, str, str], _Call] = {}
    finished: list[_Call] = []
    for message in stream:
        now = max(newest.get(message.partition, 0), message.stored_ms)
        newest[message.partition] = now
        for number, report in enumerate(message.reports):
            if _is_closed(month_of(report.at_ms), now, delay_ms):
                result.late.append((message.sequence, number))
                continue
            key = (report.user, report.deployment, report.call)
            call = calls.get(key)
            if call is not None and _is_closed(call.month(), now, delay_ms):
                finished.append(call)
                call = None
            if call is None:
                call = calls[key] = _Call()
            if report.side == "gateway":
                call.gateway = call.gateway or report
            else:
                call.worker = call.worker or report
    for call in [*finished, *calls.values()]:
        where, what = _charge(call, prices, longest_call_ms)
        before = result.usage.get(where, (0,) * len(SUMS))
        result.usage[where] = tuple(a + b for a, b in zip(before, what, strict=True))
    return result


def month_of(at_ms: int) -> tuple[int, int]:
    """The year and month in UTC, counted day by day from 1970."""
    days, year = at_ms // MS_PER_DAY, 1970
    while days >= _days_of_year(year):
        days -= _days_of_year(year)
        year += 1
    month = 1
    while days >= _days_of_month(year, month):
        days -= _days_of_month(year, month)
        month += 1
    return year, month


def beginning_of(year: int, month: int) -> int:
    """The first millisecond of a month in UTC."""
    days = sum(_days_of_year(y) for y in range(1970, year))
    days += sum(_days_of_month(year, m) for m in range(1, month))
    return days * MS_PER_DAY


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_of_year(year: int) -> int:
    return 366 if _is_leap(year) else 365


def _days_of_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if _is_leap(year) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _is_closed(month: tuple[int, int], now_ms: int, delay_ms: int) -> bool:
    year, number = month
    after = (year + 1, 1) if number == 12 else (year, number + 1)
    return now_ms >= beginning_of(*after) + delay_ms


def _charge(
    call: _Call, prices: Sequence[Price], longest_call_ms: int
) -> tuple[tuple[str, int, int, str], tuple[int, ...]]:
    gateway, worker = call.gateway, call.worker
    tokens = compute = tools = 0
    if worker is not None:
        tokens, tools, compute = worker.tokens, worker.tool_calls, worker.compute_ms
    if gateway is None:
        requests, errors, at_ms, runtime = (
            *(worker.requests, worker.errors),
            *(worker.at_ms, worker.runtime),
        )
        user = worker.user
    else:
        requests, errors, at_ms, runtime = 1, gateway.errors, gateway.at_ms, gateway.runtime
        user = gateway.user
        if worker is None:
            compute = 0 if gateway.wall_ms is None else gateway.wall_ms
        else:
            longest = longest_call_ms if gateway.wall_ms is None else gateway.wall_ms
            compute = compute if compute < longest + 1000 else longest + 1000
    price = prices[0]
    for later in prices:
        if at_ms >= later.from_day * MS_PER_DAY:
            price = later
    cost = requests * price.request * 1_000_000
    cost += compute * price.million_ms + tokens * price.million_tokens
    where = (user, *month_of(at_ms), runtime)
    return where, (1, requests, tokens, compute, tools, errors, cost)
