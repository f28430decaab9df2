"""What of a request is recorded is not up to who sends it, nor is anything before that is known."""

from asyncio import to_thread

import pytest
from webhost_kit.process.trace_context import parse

from tests.integration.gateway.harness import Harness
from tests.integration.gateway.test_delegated import SECRETS, body_for, ready_agent, send, signed
from tests.support.otlp import collector
from tests.support.traces import trace_of

OF_A_CALL = ("gateway", "invoke_agent a"), ("gateway", "POST /invoke")


@pytest.mark.accept("10.traces")
async def test_only_known_senders_requests_are_recorded(own_harness: Harness) -> None:
    with collector() as receiving:
        gateway = await own_harness.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiving.url, DELEGATION_SECRETS=SECRETS
        )
        agent = await ready_agent(own_harness, gateway)
        strangers = trace_of("01"), trace_of("01")
        bad = strangers[0].headers | {"Authorization": "Bearer nobody's"}
        assert (await own_harness.invoke(gateway, agent, headers=bad))[0] == 401
        body = body_for(agent)
        forged = signed(body, b"f" * 32) | strangers[1].headers
        refused = await send(own_harness, gateway, agent.agent_id, body, forged)
        assert refused.status == 401
        # Their flag decides nothing, either way.
        known = trace_of("00")
        status, _ = await own_harness.invoke(gateway, agent, headers=known.headers)
        assert status == 200
        delegated = trace_of("00")
        headers = signed(body) | delegated.headers
        answer = await send(own_harness, gateway, agent.agent_id, body, headers)
        assert answer.status == 200
        for trace in known, delegated:
            span, call = await to_thread(receiving.wait_for, trace.trace_id, *OF_A_CALL)
            assert (span.parent_id, call.parent_id) == (trace.span_id, span.span_id)
        await gateway.stop()
        assert [receiving.trace(trace.trace_id) for trace in strangers] == [[], []]


@pytest.mark.accept("10.traces")
async def test_a_caller_cannot_have_its_requests_recorded(own_harness: Harness) -> None:
    with collector() as receiving:
        gateway = await own_harness.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiving.url, OTEL_TRACES_SAMPLER_ARG="0"
        )
        agent = await own_harness.agent()
        await own_harness.until_answers(gateway, agent)
        trace = trace_of("01")
        await own_harness.invoke(gateway, agent, headers=trace.headers)
        passed_on = parse(own_harness.worker.calls[-1].headers["traceparent"])
        await own_harness.until_facts(agent, 2)
        stated = parse((await own_harness.envelopes(agent))[-1].traceparent)
        assert passed_on is not None
        assert (passed_on.trace_id, passed_on.sampled) == (trace.trace_id, False)
        assert stated == passed_on
        await gateway.stop()
        assert receiving.spans == []
