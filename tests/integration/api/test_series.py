"""Usage over time and the invoice, as the api gives what billing answers; a test plays billing."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.buckets import SIZE_MS, start_of
from webhost_contracts.usage_rpc import (
    InvoiceLine,
    InvoiceReply,
    InvoiceRequest,
    PriceInForce,
    SeriesPoint,
    SeriesReply,
    SeriesRequest,
)
from webhost_kit.clock import now_ms

from tests.integration.api.harness import MISSING, Harness, User, ok, problem
from tests.integration.api.test_usage import COUNTED, COUNTERS, answering

HOSTILE = "<script>alert('1')</script> & <b>\"Kim\"</b>"
HOUR_MS, DAY_MS = SIZE_MS["hour"], SIZE_MS["day"]
ZEROS = dict.fromkeys(COUNTED, 0)


@dataclass
class Billing:
    """What billing was asked, and what it answers."""

    series: list[SeriesRequest] = field(default_factory=list[SeriesRequest])
    invoices: list[InvoiceRequest] = field(default_factory=list[InvoiceRequest])
    points: tuple[SeriesPoint, ...] = ()
    invoice: InvoiceReply = InvoiceReply(usage=COUNTERS, updated_at_ms=7, lines=(), prices=())  # noqa: RUF009 - it is frozen

    def on_series(self, body: bytes) -> bytes:
        self.series.append(wire.decode(body, SeriesRequest))
        return wire.encode(SeriesReply(points=self.points))

    def on_invoice(self, body: bytes) -> bytes:
        self.invoices.append(wire.decode(body, InvoiceRequest))
        return wire.encode(self.invoice)


@pytest.fixture
async def billing(harness: Harness) -> AsyncIterator[Billing]:
    it = Billing()
    subscriptions = [
        await answering(harness, subjects.RPC_USAGE_SERIES, it.on_series),
        await answering(harness, subjects.RPC_INVOICE, it.on_invoice),
    ]
    yield it
    for subscription in subscriptions:
        await subscription.unsubscribe()


@pytest.mark.accept("8.series.http")
async def test_an_agents_metrics_have_no_gaps(user: User, billing: Billing) -> None:
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    this_hour = start_of("hour", now_ms())
    billing.points = (SeriesPoint(start_ms=this_hour - 2 * HOUR_MS, counters=COUNTERS),)
    found = ok(
        await user.http.get(
            f"/v1/agents/{agent['id']}/metrics",
            params={
                "fromMs": this_hour - 3 * HOUR_MS + 5,
                "toMs": this_hour,
                "bucket": "hour",
                "deploymentId": deployment["id"],
                "runtimeProvider": "cloudflare",
            },
        )
    )
    [asked] = billing.series
    assert asked == SeriesRequest(
        user_id=user.id,
        bucket="hour",
        from_ms=this_hour - 3 * HOUR_MS,
        to_ms=this_hour,
        agent_id=agent["id"],
        deployment_id=deployment["id"],
        runtime_provider="cloudflare",
    )
    assert found == {
        "series": [
            {
                "startAtMs": this_hour - before * HOUR_MS,
                "endAtMs": this_hour - (before - 1) * HOUR_MS,
                **used,
            }
            for before, used in ((3, ZEROS), (2, COUNTED), (1, ZEROS))
        ]
    }


@pytest.mark.accept("8.series.http")
async def test_the_users_series_is_by_day_unless_it_says_otherwise(
    user: User, billing: Billing
) -> None:
    before = start_of("day", now_ms())
    days = ok(await user.http.get("/v1/usage/series"))["series"]
    minutes = ok(await user.http.get("/v1/usage/series?bucket=minute"))["series"]
    assert (len(days), len(minutes)) == (30, 60)
    assert before <= days[-1]["startAtMs"] <= start_of("day", now_ms())
    assert all(point["endAtMs"] - point["startAtMs"] == DAY_MS for point in days)
    assert [asked.agent_id for asked in billing.series] == [None, None]
    assert {asked.user_id for asked in billing.series} == {user.id}
    agent = await user.create()
    hours = ok(await user.http.get(f"/v1/agents/{agent['id']}/metrics"))["series"]
    assert len(hours) == 24


@pytest.mark.accept("8.series.http")
async def test_what_is_no_span_is_refused(user: User, billing: Billing) -> None:
    agent = await user.create()
    for path in ("/v1/usage/series", f"/v1/agents/{agent['id']}/metrics"):
        for query, at, said in (
            ("bucket=week", "bucket", "minute"),
            ("bucket=minute&fromMs=0", "fromMs", "at most 1500"),
            ("fromMs=5&toMs=5", "fromMs", "has to be before"),
            ("bucket=minute&fromMs=0&toMs=60000", "fromMs", "kept for 35 days"),
            ("fromMs=-1", "fromMs", "greater"),
            ("toMs=x", "toMs", "integer"),
        ):
            response = await user.http.get(f"{path}?{query}")
            [issue] = problem(response, 400, "INVALID_REQUEST")["details"]["issues"]
            assert issue["path"] == [at], (path, query)
            assert said in issue["message"], (path, query)
    assert billing.series == []


@pytest.mark.accept("8.series.http")
async def test_nobody_sees_the_metrics_of_anothers_agent(
    harness: Harness, user: User, billing: Billing
) -> None:
    agent, second = await user.create(), await user.create()
    deployment = await user.deploy(agent["id"])
    other = harness.user()
    own = await other.create()

    async def refused(asker: User, agent_id: str, query: str = "") -> dict[str, object]:
        response = await asker.http.get(f"/v1/agents/{agent_id}/metrics{query}")
        error = problem(response, 404, "NOT_FOUND")
        del error["requestId"]
        return error

    assert await refused(other, agent["id"]) == await refused(other, f"agt_{MISSING}")
    gone = await refused(other, own["id"], f"?deploymentId=dep_{MISSING}")
    assert await refused(other, own["id"], f"?deploymentId={deployment['id']}") == gone
    # Nor is it of another agent of the same user.
    assert await refused(user, second["id"], f"?deploymentId={deployment['id']}") == gone
    assert billing.series == []

    limited = await user.key("read", agentIds=[second["id"]])
    ok(await limited.http.get(f"/v1/agents/{second['id']}/metrics"))
    problem(await limited.http.get(f"/v1/agents/{agent['id']}/metrics"), 404, "NOT_FOUND")
    for path in ("/v1/usage/series", "/v1/billing/invoice", "/v1/billing/invoice.html"):
        problem(await limited.http.get(path), 403, "UNAUTHORIZED")
    assert len(billing.series) == 1
    assert billing.invoices == []


@pytest.mark.accept("8.series.http")
async def test_a_deleted_agents_metrics_can_be_read(user: User, billing: Billing) -> None:
    agent = await user.create()
    ok(await user.http.delete(f"/v1/agents/{agent['id']}"))
    ok(await user.http.get(f"/v1/agents/{agent['id']}/metrics"))
    assert len(billing.series) == 1


@pytest.mark.accept("8.invoice")
@pytest.mark.accept("8.invoice.page")
async def test_an_invoice_as_json_and_as_a_page(user: User, billing: Billing) -> None:
    agent = await user.create(name=HOSTILE)
    ok(await user.http.delete(f"/v1/agents/{agent['id']}"))
    billing.invoice = InvoiceReply(
        usage=COUNTERS,
        updated_at_ms=7,
        lines=tuple(
            InvoiceLine(
                day="2026-02-28",
                agent_id=of,
                runtime_provider="cloudflare",
                price=0,
                counters=COUNTERS,
            )
            for of in (agent["id"], "agt_of_nobody", None)
        ),
        prices=(
            PriceInForce(
                effective_from_ms=DAY_MS, request=1, million_compute_ms=20_000, million_tokens=0
            ),
        ),
        other_agents=4,
    )
    found = ok(await user.http.get("/v1/billing/invoice?period=2026-02"))["invoice"]
    costs = COUNTED | {"costPicodollars": "1500001"}
    line = {
        **costs,
        "day": "2026-02-28",
        "runtimeProvider": "cloudflare",
        "price": {
            "effectiveAtMs": DAY_MS,
            "requestMicrodollars": 1,
            "millionComputeMsMicrodollars": 20_000,
            "millionTokensMicrodollars": 0,
        },
    }
    assert found == {
        "userId": user.id,
        "periodKey": "2026-02",
        "updatedAtMs": 7,
        "usage": costs,
        "lines": [
            line | {"agentId": agent["id"], "agentName": HOSTILE},
            line | {"agentId": "agt_of_nobody"},
            line,
        ],
        "otherAgents": 4,
    }
    page = await user.http.get("/v1/billing/invoice.html?period=2026-02")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "&lt;script&gt;" in page.text
    assert "<script" not in page.text
    assert [asked.period_key for asked in billing.invoices] == ["2026-02", "2026-02"]
    assert {asked.user_id for asked in billing.invoices} == {user.id}
    for path in ("/v1/billing/invoice", "/v1/billing/invoice.html"):
        ok_now = await user.http.get(path)
        assert ok_now.status_code == 200
        for period in ("2026-13", "0000-01", "9999-12", "x"):
            problem(await user.http.get(f"{path}?period={period}"), 400, "INVALID_REQUEST")


async def test_while_billing_is_away_these_are_unavailable(user: User) -> None:
    agent = await user.create()
    for path in (
        "/v1/usage/series",
        f"/v1/agents/{agent['id']}/metrics",
        "/v1/billing/invoice",
        "/v1/billing/invoice.html",
    ):
        assert problem(await user.http.get(path), 503, "UNAVAILABLE")["retryable"] is True
