"""What a caller gets from the gateway."""

from tests.integration.gateway.stage import Gateway, Stage


async def test_an_invocation_is_answered_and_stated_once(stage: Stage, gateway: Gateway) -> None:
    agent = await stage.agent()
    body = await stage.until_answers(gateway, agent)
    assert body["output"] == {"text": "You said: hi"}
    assert body["usage"] == {"tokens": 3}
    (fact,) = await stage.until_facts(agent, 1)
    assert (fact.outcome, fact.errors, fact.deployment_id) == ("succeeded", 0, agent.deployment_id)
    assert fact.wall_ms is not None
    assert fact.trace_id == body["traceId"]
    (call,) = stage.worker.calls
    (envelope,) = await stage.envelopes(agent)
    assert call.body["invocationId"] == envelope.aggregate_id
    assert call.body["admittedAtMs"] == fact.admitted_at_ms
