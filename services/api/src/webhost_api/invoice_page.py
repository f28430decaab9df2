"""Pure: the preview of an invoice as a page to print. Its texts are escaped; it runs nothing."""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from itertools import groupby

from webhost_api.schemas.invoice import CostsSchema, InvoiceLineSchema, InvoiceSchema, PriceSchema

STYLE = """
:root { color-scheme: light; }
body { font: 14px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #14161a; background: #fff; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; break-after: avoid; }
p { margin: .25rem 0; color: #5b6270; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #e3e6eb; }
th { font-weight: 600; color: #5b6270; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
tfoot td { font-weight: 600; border-bottom: 0; }
code { font-size: .8em; color: #5b6270; }
@page { margin: 15mm; }
@media print { body { margin: 0; max-width: none; font-size: 10px; } }
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'sha256-"
    + b64encode(sha256(STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What the page's answer says: nothing is loaded, run, framed or sent."""

QUANTITIES = ("Requests", "Compute ms", "Tokens", "Cost, USD")
OTHERS = "Other agents"
PICO, MICRO = 10**12, 10**6


def page(invoice: InvoiceSchema) -> str:
    """Return the page."""
    title = f"Usage of {escape(invoice.period_key)}"
    prices = {line.price.effective_at_ms: line.price for line in invoice.lines}
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
        "<p>A preview and an estimate, not an invoice. Days are in UTC. "
        f"Account {escape(invoice.user_id)}. {_as_of(invoice.updated_at_ms)}</p>",
        *(_agent(list(lines)) for _, lines in groupby(invoice.lines, lambda line: line.agent_id)),
        "<h2>Total</h2>",
        _table(("", *QUANTITIES), [], ("Sum", *_shown(_quantities(invoice.usage)))),
        "<h2>Prices, USD</h2>",
        _table(
            ("Since", "A request", "1,000,000 compute ms", "1,000,000 tokens"),
            [_price(prices[at_ms]) for at_ms in sorted(prices)],
        ),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def dollars(picodollars: int) -> str:
    """Return an exact number of dollars."""
    return f"{picodollars // PICO:,}.{picodollars % PICO:012d}"


def _agent(lines: Sequence[InvoiceLineSchema]) -> str:
    first = lines[0]
    heading = OTHERS
    if first.agent_id is not None:
        heading = f"{escape(first.agent_name or '')} <code>{escape(first.agent_id)}</code>"
    rows = [
        (
            escape(line.day),
            escape(line.runtime_provider),
            _day(line.price.effective_at_ms),
            *_shown(_quantities(line)),
        )
        for line in lines
    ]
    sums = [sum(column) for column in zip(*map(_quantities, lines), strict=True)]
    columns = ("Day", "Runtime", "Prices since", *QUANTITIES)
    return f"<h2>{heading}</h2>\n" + _table(columns, rows, ("Sum", "", "", *_shown(sums)))


def _table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], foot: Iterable[str] | None = None
) -> str:
    """Return a table of cells that are escaped."""
    body = "\n".join(_row(row, "td") for row in rows)
    end = "" if foot is None else f"<tfoot>{_row(foot, 'td')}</tfoot>\n"
    head = _row(columns, "th")
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n{end}</table>"


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _quantities(costs: CostsSchema) -> tuple[int, ...]:
    return costs.requests, costs.compute_ms, costs.llm_tokens, int(costs.cost_picodollars)


def _shown(quantities: Sequence[int]) -> Iterator[str]:
    *counted, cost = quantities
    yield from (f"{count:,}" for count in counted)
    yield dollars(cost)


def _price(price: PriceSchema) -> tuple[str, ...]:
    return (
        _day(price.effective_at_ms),
        dollars(price.request_microdollars * MICRO),
        dollars(price.million_compute_ms_microdollars * MICRO),
        dollars(price.million_tokens_microdollars * MICRO),
    )


def _as_of(updated_at_ms: int) -> str:
    if updated_at_ms == 0:
        return "Nothing was used."
    at = datetime.fromtimestamp(updated_at_ms / 1000, UTC)
    return f"As of {at:%Y-%m-%d %H:%M} UTC."


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"
