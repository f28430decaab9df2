"""An invoice's lines come to the usage of their period, to the picodollar, whatever prices did."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_billing.charging import Price, PriceBook, Rules, add
from webhost_billing.folding import fold
from webhost_billing.model import UsageReport
from webhost_billing.series.invoice import AgentDay, lines_of
from webhost_contracts.periods import day_key, period_key
from webhost_contracts.usage_rpc import Counters, InvoiceLine, PriceInForce

from tests.unit.billing.test_charging import by_gateway, by_worker
from tests.unit.billing.test_series import CALLED

FIRST = datetime(2024, 2, 1, tzinfo=UTC)
MONTH_MS = int(FIRST.timestamp() * 1000)
DAY_MS = 24 * 3_600_000
PICO = 10**6

amounts = st.integers(0, 3) | st.integers(0, 10**6)


@st.composite
def price_books(draw: st.DrawFn) -> PriceBook:
    """Prices that change on some days of February 2024, perhaps before it, perhaps never."""
    days = sorted(draw(st.sets(st.integers(-400, 0) | st.integers(1, 28), min_size=1, max_size=5)))
    return PriceBook(
        [
            Price(
                effective_from=FIRST + timedelta(days=day),
                request=draw(amounts),
                million_compute_ms=draw(amounts),
                million_tokens=draw(amounts),
            )
            for day in days
        ]
    )


reports = st.lists(
    st.builds(
        lambda key, side, offset: UsageReport(
            key, replace(side, user_id="a", at_ms=MONTH_MS + offset), 0
        ),
        st.binary(min_size=1, max_size=1),
        by_gateway | by_worker,
        st.integers(-DAY_MS, 31 * DAY_MS) | st.integers(0, 30).map(lambda n: n * DAY_MS - 1),
    ),
    max_size=12,
)


def days_of(usage: list[UsageReport], book: PriceBook, period: str) -> list[AgentDay]:
    """Each agent's days in a period, of one user."""
    series = fold({}, usage, Rules(book, 60_000)).series
    sums: dict[tuple[int, str, str], Counters] = {}
    for row, change in series.items():
        if row.bucket == "day" and period_key(row.start_ms) == period:
            key = (row.start_ms, row.agent_id, row.runtime_provider)
            sums[key] = add(sums.get(key, Counters()), change.counters)
    return [AgentDay(*key, counters) for key, counters in sums.items()]


@pytest.mark.accept("8.invoice")
@given(reports, price_books())
def test_the_lines_add_up_to_usage_by_the_prices_that_they_name(
    usage: list[UsageReport], book: PriceBook
) -> None:
    rows = fold({}, usage, Rules(book, 60_000)).rows
    charged = Counters()
    for row, change in rows.items():
        if row.period_key == "2024-02":
            charged = add(charged, change.counters)
    lines, prices = lines_of(days_of(usage, book, "2024-02"), book)
    total = Counters()
    for line in lines:
        total = add(total, line.counters)
        assert line.counters.cost_picodollars == _cost(line, prices[line.price])
    assert total == charged


def _cost(line: InvoiceLine, price: PriceInForce) -> int:
    used = line.counters
    return (
        used.requests * price.request * PICO
        + used.compute_ms * price.million_compute_ms
        + used.llm_tokens * price.million_tokens
    )


@pytest.mark.accept("8.invoice")
def test_a_day_has_the_price_of_its_midnight() -> None:
    change = FIRST + timedelta(days=28)
    book = PriceBook(
        [
            Price(effective_from=when, request=request, million_compute_ms=0, million_tokens=0)
            for when, request in ((FIRST, 1), (change, 5))
        ]
    )
    change_ms = int(change.timestamp() * 1000)
    usage = [
        UsageReport(bytes([n]), replace(CALLED, at_ms=at_ms), 0)
        for n, at_ms in enumerate((change_ms - 1, change_ms, change_ms + DAY_MS - 1))
    ]
    lines, prices = lines_of(days_of(usage, book, "2024-02"), book)
    assert [(line.day, line.counters.requests) for line in lines] == [
        ("2024-02-28", 1),
        ("2024-02-29", 2),
    ]
    assert [prices[line.price].request for line in lines] == [1, 5]
    assert [line.counters.cost_picodollars for line in lines] == [PICO, 2 * 5 * PICO]
    assert day_key(prices[1].effective_from_ms) == "2024-02-29"


def test_lines_are_by_agent_and_day_and_the_agents_without_lines_come_last() -> None:
    book = PriceBook(
        [Price(effective_from=FIRST, request=1, million_compute_ms=0, million_tokens=0)]
    )
    days = [
        AgentDay(MONTH_MS, None, "cloudflare", Counters(requests=9)),
        AgentDay(MONTH_MS, "agt_b", "cloudflare", Counters(requests=1)),
        AgentDay(MONTH_MS + DAY_MS, "agt_a", "cloudflare", Counters(requests=2)),
        AgentDay(MONTH_MS, "agt_a", "cloudflare", Counters(requests=3)),
    ]
    lines, prices = lines_of(days, book)
    assert [(line.agent_id, line.day) for line in lines] == [
        ("agt_a", "2024-02-01"),
        ("agt_a", "2024-02-02"),
        ("agt_b", "2024-02-01"),
        (None, "2024-02-01"),
    ]
    assert len(prices) == 1
    assert lines_of([], book) == ((), ())
