"""What a caller gets from the gateway, one check after the other."""

import re
import time

import pytest
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    TierChanged,
)
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_kit.clock import now_ms

from tests.integration.gateway.harness import Gateway, Harness
from tests.support.deadline import eventually

HI = {"input": {"prompt": "hi"}}


async def test_an_invocation_is_answered_and_stated_once(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await harness.agent()
    body = await harness.until_answers(gateway, agent)
    assert body["output"] == {"text": "You said: hi"}
    assert body["usage"] == {"tokens": 3}
    (fact,) = await harness.until_facts(agent, 1)
    assert (fact.outcome, fact.errors, fact.deployment_id) == ("succeeded", 0, agent.deployment_id)
    assert fact.wall_ms is not None
    assert fact.trace_id == body["traceId"]
    (call,) = harness.worker.calls
    (envelope,) = await harness.envelopes(agent)
    assert call.body["invocationId"] == envelope.aggregate_id
    assert call.body["admittedAtMs"] == fact.admitted_at_ms
    (row,) = await harness.rows("SELECT * FROM quotas WHERE user_id = :user", user=agent.user_id)
    assert (row["requests"], row["in_flight"]) == (1, 0)


@pytest.mark.accept("5.headers")
async def test_no_header_of_the_callers_is_passed_on_but_traceparent(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    sent = {"traceparent": traceparent, "Cookie": "a=b", "X-Custom": "c", "User-Agent": "u"}
    await harness.invoke(gateway, agent, headers=sent)
    headers = harness.worker.calls[-1].headers
    assert headers.pop("traceparent") == traceparent
    assert headers.pop("host") == "workers.example"
    assert headers.pop("accept") == "application/json"
    assert headers.keys() == {"content-type", "content-length", "x-webhost-invoke-signature"}


@pytest.mark.accept("5.headers")
@pytest.mark.parametrize("version", ["00", "ff"])
async def test_a_traceparent_that_is_none_is_neither_passed_on_nor_stated(
    harness: Harness, gateway: Gateway, version: str
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    trace = "0" * 32 if version == "00" else "a" * 32
    await harness.invoke(
        gateway, agent, headers={"traceparent": f"{version}-{trace}-{'b' * 16}-01"}
    )
    await harness.until_facts(agent, 2)
    assert "traceparent" not in harness.worker.calls[-1].headers
    assert (await harness.envelopes(agent))[-1].traceparent is None


@pytest.mark.accept("5.trace-id")
async def test_two_calls_with_one_trace_id_are_two_invocations(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    for _ in range(2):
        _, body = await harness.invoke(gateway, agent, HI | {"traceId": "the.trace"})
        assert body["traceId"] == "the.trace"
    facts = await harness.until_facts(agent, 3)
    assert [fact.trace_id for fact in facts[1:]] == ["the.trace"] * 2
    _, body = await harness.invoke(gateway, agent, HI | {"traceId": "not acceptable"})
    assert re.fullmatch(r"[0-9a-f]{32}", body["traceId"])


async def test_credentials(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    expired = harness.issuer.token("someone", exp=int(time.time()) - 10)
    foreign = harness.issuer.token("someone", iss="https://elsewhere.example")
    answers = []
    for token in (expired, foreign, "nonsense", agent.token[:-4] + "AAAA", ""):
        status, body = await harness.invoke(
            gateway, agent, headers={"Authorization": f"Bearer {token}"}
        )
        assert (status, body["error"]["code"]) == (401, "UNAUTHENTICATED")
        answers.append(body["error"]["details"])
    async with harness.http.post(f"{gateway.url}/v1/invoke/{agent.agent_id}", json=HI) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert len(harness.worker.calls) == 1


async def test_another_users_agent_is_not_found(harness: Harness, gateway: Gateway) -> None:
    mine, theirs = await harness.agent(), await harness.agent()
    await harness.until_answers(gateway, theirs)
    mine.agent_id, unknown = theirs.agent_id, "agt_00000000000000000000000000"
    status, foreign = await harness.invoke(gateway, mine)
    assert (status, foreign["error"]["code"]) == (404, "NOT_FOUND")
    mine.agent_id = unknown
    _, missing = await harness.invoke(gateway, mine)
    for body in (foreign, missing):
        del body["error"]["requestId"]
    assert foreign == missing


@pytest.mark.accept("4.pointer")
async def test_pointer_disable_enable_and_delete_are_followed(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    first = agent.deployment_id
    await harness.deploy(agent, "dep_00000000000000000000000002")
    _, _ = await harness.invoke(gateway, agent)
    assert first in harness.worker.calls[-1].path
    await harness.point(agent, "dep_00000000000000000000000002")

    async def flipped() -> bool:
        await harness.invoke(gateway, agent)
        return "dep_00000000000000000000000002" in harness.worker.calls[-1].path

    await eventually(flipped, "the new pointer", seconds=3)
    await harness.tell(agent, AgentDisabled())
    body = await harness.until_answers(gateway, agent, 403)
    assert body["error"]["details"] == {"reason": "agent_disabled"}
    await harness.tell(agent, AgentEnabled())
    await harness.until_answers(gateway, agent, 200)
    await harness.tell(agent, AgentDeleted())
    body = await harness.until_answers(gateway, agent, 404)
    assert body["error"]["code"] == "NOT_FOUND"


async def test_shape_and_size(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    status, body = await harness.invoke(gateway, agent, {"input": {"promt": "hi"}})
    assert (status, body["error"]["code"]) == (400, "INVALID_REQUEST")
    assert body["error"]["details"]["issues"][0]["path"] == ["input", "promt"]
    status, body = await harness.invoke(gateway, agent, {"input": {"prompt": "x" * 1024 * 1024}})
    assert (status, body["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")

    async def without_length():
        for _ in range(20):
            yield b"x" * 64 * 1024

    async with harness.http.post(
        f"{gateway.url}/v1/invoke/{agent.agent_id}",
        data=without_length(),
        headers={"Authorization": f"Bearer {agent.token}"},
    ) as response:
        assert response.status == 413
    assert len(harness.worker.calls) == 1


async def test_addresses_methods_and_request_ids(harness: Harness, gateway: Gateway) -> None:
    for path in ("/", "/v1/invoke/", "/v1/invoke/a/b", "/v1/invoke/a/stream/b"):
        async with harness.http.post(gateway.url + path, headers={"X-Request-Id": "r1"}) as got:
            error = (await got.json())["error"]
            assert (got.status, error["code"], error["requestId"]) == (404, "NOT_FOUND", "r1")
            assert got.headers["X-Request-Id"] == "r1"
    async with harness.http.get(gateway.url + "/v1/invoke/a", headers={"X-Request-Id": "a b"}) as g:
        error = (await g.json())["error"]
        assert (g.status, error["code"], g.headers["Allow"]) == (
            405,
            "METHOD_NOT_ALLOWED",
            "POST, OPTIONS",
        )
        assert error["requestId"] == g.headers["X-Request-Id"] != "a b"


async def test_browsers_of_the_allowed_origins(harness: Harness, gateway: Gateway) -> None:
    url = f"{gateway.url}/v1/invoke/a/stream"
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with harness.http.options(url, headers=asking) as response:
            assert response.status == 204
            assert ("Access-Control-Allow-Methods" in response.headers) is allowed
        async with harness.http.post(url, headers={"Origin": origin}) as response:
            assert response.status == 401
            got = response.headers.get("Access-Control-Allow-Origin")
            assert got == (origin if allowed else None)


@pytest.mark.accept("2.rate-limit")
async def test_rate_limit(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent("slow")
    await harness.until_answers(gateway, agent, 429)
    async with harness.post(gateway, agent) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["retryable"]) == (429, "RATE_LIMITED", True)
        assert 1 <= int(response.headers["Retry-After"]) <= 30
        assert response.headers["RateLimit-Policy"] == '"user";q=2;w=60'
        assert response.headers["RateLimit"].startswith('"user";r=0;t=')


@pytest.mark.parametrize(
    ("tokens", "compute_ms", "over"), [(100, 0, "tokens"), (0, 1000, "computeMs")]
)
async def test_budgets_follow_what_billing_charged(
    harness: Harness, gateway: Gateway, tokens: int, compute_ms: int, over: str
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    period = period_key(now_ms())
    totals = Totals(tokens=tokens, compute_ms=compute_ms, generation=1, sequence=9)
    await harness.charge(agent, totals, period)
    body = await harness.until_answers(gateway, agent, 402)
    details = body["error"]["details"]
    assert (details["limitType"], details["periodKey"]) == (over, period)
    assert details["current"] == details["limit"]
    calls = len(harness.worker.calls)
    await harness.charge(agent, Totals(tokens=0, compute_ms=0, generation=1, sequence=8), period)
    marker = await harness.agent()
    await harness.charge(marker, totals, period)
    await harness.until_answers(gateway, marker, 402)
    # The older totals were read before the marker's, and changed nothing.
    status, _ = await harness.invoke(gateway, agent)
    assert status == 402
    assert len([c for c in harness.worker.calls[calls:] if agent.deployment_id in c.path]) == 0
    await harness.tell(agent, TierChanged(tier="narrow", previous_tier="free", source="test"))
    await harness.until_answers(gateway, agent, 200)


@pytest.mark.accept("A1")
@pytest.mark.parametrize("before", [{"generation": 2}, {"generation": 1, "epoch": 1}])
async def test_budgets_hold_when_billing_was_restored_to_before_its_latest_rebuild(
    harness: Harness, gateway: Gateway, before: dict[str, int]
) -> None:
    agent = await harness.agent()
    period = period_key(now_ms())
    await harness.charge(agent, Totals(tokens=0, compute_ms=0, sequence=9, **before), period)
    await harness.until_answers(gateway, agent)
    used_up = Totals(tokens=10**9, compute_ms=0, generation=1, sequence=9)
    await harness.charge(agent, used_up, period)
    await harness.until_answers(gateway, agent, 402)


@pytest.mark.accept("7.account-disabled")
async def test_a_disabled_accounts_calls_reach_no_runtime(
    harness: Harness, gateway: Gateway
) -> None:
    agent, other = await harness.agent(), await harness.agent()
    await harness.until_answers(gateway, agent)
    await harness.until_answers(gateway, other)
    await harness.tell(agent, AccountDisabled(source="test"))
    body = await harness.until_answers(gateway, agent, 403)
    assert body["error"]["details"] == {"reason": "account_disabled"}
    calls = len(harness.worker.calls)
    for stream in (False, True):
        status, _ = await harness.invoke(gateway, agent, stream=stream)
        assert status == 403
    assert len(harness.worker.calls) == calls
    await harness.until_answers(gateway, other)
    # A gateway that starts now knows it from its rows.
    again = await harness.start()
    assert (await harness.invoke(again, agent))[0] == 403
    await harness.tell(agent, AccountEnabled(source="test"))
    await harness.until_answers(gateway, agent)
    await harness.until_answers(again, agent)
