"""The page of an invoice: what it says, and that it says nothing that a name could make it do."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_api.invoice_page import HEADERS, dollars, page
from webhost_api.schemas.invoice import InvoiceSchema, invoice_schema
from webhost_contracts.usage_rpc import Counters, InvoiceLine, InvoiceReply, PriceInForce

AGENT = "agt_01kbbkbng8emasa58n2maha58n"
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def invoice(name: str = "support", agents: tuple[str | None, ...] = (AGENT,)) -> InvoiceSchema:
    """Each agent's two days, of 2 and 3 requests, between which the price changed."""
    lines = [
        InvoiceLine(
            day=f"2026-11-0{day}",
            agent_id=agent,
            runtime_provider="cloudflare",
            price=price,
            counters=Counters(
                requests=day, compute_ms=1_000, cost_picodollars=day * (price + 1) * 10**6
            ),
        )
        for agent in agents
        for day, price in ((2, 0), (3, 1))
    ]
    total = sum(line.counters.cost_picodollars for line in lines)
    used = Counters(requests=5 * len(agents), cost_picodollars=total)
    prices = tuple(
        PriceInForce(
            effective_from_ms=1_764_547_200_000 + number * 86_400_000,
            request=number + 1,
            million_compute_ms=20_000,
            million_tokens=0,
        )
        for number in range(2)
    )
    reply = InvoiceReply(
        usage=used, updated_at_ms=1_793_000_000_000, lines=tuple(lines), prices=prices
    )
    return invoice_schema("usr_1", "2026-11", reply, {AGENT: name})


class Read(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, Any]]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, list(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.accept("8.invoice.page")
def test_it_says_what_was_used_and_what_it_costs() -> None:
    read = Read(page(invoice(agents=(AGENT, None))))
    cells = [text.strip() for text in read.text if text.strip()]
    for said in ("Usage of 2026-11", AGENT, "support", "Other agents", "2026-11-02"):
        assert any(said in cell for cell in cells), said
    assert cells.count("0.000008000000") == 2
    assert "0.000016000000" in cells
    assert "an estimate, not an invoice" in " ".join(cells)


@pytest.mark.accept("8.invoice.page")
@given(st.text() | st.just(HOSTILE))
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    harmless, read = Read(page(invoice("support"))), Read(page(invoice(name)))
    assert read.elements == harmless.elements
    assert {tag for tag, _ in read.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code"),
        *("table", "thead", "tbody", "tfoot", "tr", "th", "td"),
    }


@pytest.mark.accept("8.invoice.page")
def test_a_hostile_name_is_shown_as_it_is() -> None:
    text = page(invoice(HOSTILE))
    assert HOSTILE in "".join(Read(text).text)
    assert "<script" not in text
    assert "<img" not in text


@pytest.mark.accept("8.invoice.page")
def test_the_policy_lets_the_pages_own_style_through_and_nothing_else() -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";")
    )
    [style] = re.findall(r"<style>(.*)</style>", page(invoice()), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.pop("style-src") == f"'sha256-{digest}'"
    assert policy == dict.fromkeys(
        ("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"
    )
    assert "url(" not in style
    assert "://" not in page(invoice())


def test_dollars_have_every_digit() -> None:
    assert dollars(0) == "0.000000000000"
    assert dollars(1_500_001) == "0.000001500001"
    assert dollars(1234 * 10**12 + 1) == "1,234.000000000001"
    assert dollars(10**30 + 7).replace(",", "").replace(".", "") == str(10**30 + 7)


def test_an_empty_period_has_a_page_too() -> None:
    empty = InvoiceReply(usage=Counters(), updated_at_ms=0, lines=(), prices=())
    text = page(invoice_schema("usr_1", "2026-01", empty, {}))
    assert "Nothing was used." in text


@pytest.mark.accept("8.invoice.page")
def test_every_number_is_under_its_heading() -> None:
    """Cell by cell: an agent's days with their sum, the total, and the prices that are named."""
    counters = Counters(requests=1, compute_ms=2, llm_tokens=3, cost_picodollars=4)
    more = Counters(requests=10, compute_ms=20, llm_tokens=30, cost_picodollars=40)
    reply = InvoiceReply(
        usage=Counters(requests=11, compute_ms=22, llm_tokens=33, cost_picodollars=44),
        updated_at_ms=1,
        lines=tuple(
            InvoiceLine(
                day=f"2026-11-0{number + 1}",
                agent_id=AGENT,
                runtime_provider="cloudflare",
                price=number,
                counters=used,
            )
            for number, used in enumerate((counters, more))
        ),
        prices=tuple(
            PriceInForce(
                effective_from_ms=1_793_491_200_000 + number * 86_400_000,
                request=number + 1,
                million_compute_ms=20_000,
                million_tokens=7,
            )
            for number in range(2)
        ),
    )
    text = page(invoice_schema("usr_1", "2026-11", reply, {AGENT: "support"}))
    rows = [
        [cell.strip() for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", text)
    ]
    pico = "0.00000000000"
    assert rows == [
        ["Day", "Runtime", "Prices since", "Requests", "Compute ms", "Tokens", "Cost, USD"],
        ["2026-11-01", "cloudflare", "2026-11-01", "1", "2", "3", f"{pico}4"],
        ["2026-11-02", "cloudflare", "2026-11-02", "10", "20", "30", "0.000000000040"],
        ["Sum", "", "", "11", "22", "33", "0.000000000044"],
        ["", "Requests", "Compute ms", "Tokens", "Cost, USD"],
        ["Sum", "11", "22", "33", "0.000000000044"],
        ["Since", "A request", "1,000,000 compute ms", "1,000,000 tokens"],
        ["2026-11-01", "0.000001000000", "0.020000000000", "0.000007000000"],
        ["2026-11-02", "0.000002000000", "0.020000000000", "0.000007000000"],
    ]
