"""What of a request is recorded is not up to who sends it, nor is anything before that is known."""

import secrets
from asyncio import to_thread

import pytest
from webhost_contracts.events import AgentCreated
from webhost_contracts.operator_tokens import hash_of, token_of
from webhost_kit.process.trace_context import parse

from tests.integration.api.harness import Harness, ok, problem
from tests.support.otlp import collector
from tests.support.traces import trace_of

TOKEN = token_of(secrets.token_bytes(32))
FEED = "/v1/operator/usage-events"


async def restarted(harness: Harness, **env: str) -> None:
    await harness.service.stop()
    await harness.start(OPERATOR_TOKENS=f"kim:{hash_of(TOKEN)}", **env)


@pytest.mark.accept("10.traces")
async def test_only_known_callers_requests_are_recorded(own_harness: Harness) -> None:
    with collector() as receiving:
        await restarted(own_harness, OTEL_EXPORTER_OTLP_ENDPOINT=receiving.url)
        strangers = [trace_of("01") for _ in range(5)]
        nobody = own_harness.with_token("nobody's")
        headers = [trace.headers for trace in strangers]
        problem(await nobody.get("/v1/me", headers=headers[0]), 401, "UNAUTHENTICATED")
        problem(await nobody.get(FEED, headers=headers[1]), 401, "UNAUTHENTICATED")
        problem(await nobody.get("/v1/nowhere", headers=headers[2]), 404, "NOT_FOUND")
        webhook = "/v1/billing/webhook"
        problem(await nobody.post(webhook, headers=headers[3]), 401, "UNAUTHENTICATED")
        asked = {"Origin": "https://x", "Access-Control-Request-Method": "GET"}
        await nobody.options("/v1/me", headers=headers[4] | asked)

        # Their flag decides nothing, either way.
        user = own_harness.user()
        known, keyed, operators = (trace_of("00") for _ in range(3))
        key = await user.key("admin")
        body = {"name": "traced"}
        agent = ok(await user.http.post("/v1/agents", json=body, headers=known.headers), 201)
        ok(await key.http.get("/v1/agents", headers=keyed.headers))
        await own_harness.with_token(TOKEN).get(FEED, headers=operators.headers)
        for trace, name in (
            (known, "POST /v1/agents"),
            (keyed, "GET /v1/agents"),
            (operators, f"GET {FEED}"),
        ):
            spans = await to_thread(receiving.wait_for, trace.trace_id, ("api", name))
            [request] = [span for span in spans if span.name == name]
            assert request.parent_id == trace.span_id
        stated = await own_harness.fact(user.id, AgentCreated, agent["agent"]["id"])
        context = parse(stated.traceparent)
        assert context is not None
        assert (context.trace_id, context.sampled) == (known.trace_id, True)
        await own_harness.service.stop()
        assert [receiving.trace(trace.trace_id) for trace in strangers] == [[]] * 5


@pytest.mark.accept("10.traces")
async def test_a_caller_cannot_have_its_requests_recorded(own_harness: Harness) -> None:
    with collector() as receiving:
        await restarted(
            own_harness, OTEL_EXPORTER_OTLP_ENDPOINT=receiving.url, OTEL_TRACES_SAMPLER_ARG="0"
        )
        trace = trace_of("01")
        user = own_harness.user()
        made = await user.http.post("/v1/agents", json={"name": "a"}, headers=trace.headers)
        stated = await own_harness.fact(user.id, AgentCreated, ok(made, 201)["agent"]["id"])
        context = parse(stated.traceparent)
        assert context is not None
        assert (context.trace_id, context.sampled) == (trace.trace_id, False)
        await own_harness.service.stop()
        assert receiving.spans == []
