"""Pure: the lines of an invoice, from a period's days.

A price holds from a midnight on, so a day has one. A line costs what its calls were charged, so
that the lines' sum is the period's usage, to the picodollar.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from webhost_contracts.periods import day_key
from webhost_contracts.usage_rpc import Counters, InvoiceLine, PriceInForce

from webhost_billing.charging import PriceBook


@dataclass(frozen=True)
class AgentDay:
    """What an agent used on the day that starts at `start_ms`, under one runtime provider.

    Without an agent it is what several used that have no lines of their own.
    """

    start_ms: int
    agent_id: str | None
    runtime_provider: str
    counters: Counters


def lines_of(
    days: Iterable[AgentDay], book: PriceBook
) -> tuple[tuple[InvoiceLine, ...], tuple[PriceInForce, ...]]:
    """Return a line for each, by agent and day, and the prices that they name."""
    ordered = sorted(
        days,
        key=lambda day: (
            day.agent_id is None,
            day.agent_id or "",
            day.start_ms,
            day.runtime_provider,
        ),
    )
    prices = sorted({_price_at(day.start_ms, book) for day in ordered})
    places = {price: place for place, price in enumerate(prices)}
    lines = tuple(
        InvoiceLine(
            day=day_key(day.start_ms),
            agent_id=day.agent_id,
            runtime_provider=day.runtime_provider,
            price=places[_price_at(day.start_ms, book)],
            counters=day.counters,
        )
        for day in ordered
    )
    return lines, tuple(prices)


def _price_at(at_ms: int, book: PriceBook) -> PriceInForce:
    price = book.at(at_ms)
    return PriceInForce(
        effective_from_ms=int(price.effective_from.timestamp() * 1000),
        request=price.request,
        million_compute_ms=price.million_compute_ms,
        million_tokens=price.million_tokens,
    )
