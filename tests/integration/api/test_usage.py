"""What billing answers, as the api gives it; and the api while billing is away."""

from collections.abc import Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from webhost_contracts import subjects, wire
from webhost_contracts.usage_rpc import (
    Counters,
    RecentEventsReply,
    RecentEventsRequest,
    UsageEvent,
    UsageReply,
    UsageRequest,
)

from tests.integration.api.harness import Harness, User, ok, problem

COUNTERS = Counters(
    requests=3, llm_tokens=5, compute_ms=70, tool_calls=1, errors=1, cost_picodollars=1_500_001
)
COUNTED = {
    "requests": 3,
    "llmTokens": 5,
    "computeMs": 70,
    "toolCalls": 1,
    "errors": 1,
    "costUsdEstimated": 0.000001500001,
}


async def answering(
    harness: Harness, subject: str, answer: Callable[[bytes], bytes]
) -> Subscription:
    async def on_request(message: Msg) -> None:
        await message.respond(answer(message.data))

    subscription = await harness.bus.client.subscribe(subject, cb=on_request)
    await harness.bus.client.flush()
    return subscription


async def test_usage_is_billings_answer_with_the_tiers_limits(harness: Harness, user: User) -> None:
    asked: list[UsageRequest] = []

    def answer(body: bytes) -> bytes:
        asked.append(wire.decode(body, UsageRequest))
        return wire.encode(
            UsageReply(usage=COUNTERS, by_runtime={"cloudflare": COUNTERS}, updated_at_ms=7)
        )

    subscription = await answering(harness, subjects.RPC_USAGE, answer)
    try:
        current = ok(await user.http.get("/v1/usage/current"))
        past = ok(await user.http.get("/v1/billing/usage?period=2026-02"))
        for period in ("2026-13", "٢٠٢٦-01", "0000-01"):
            response = await user.http.get("/v1/billing/usage", params={"period": period})
            problem(response, 400, "INVALID_REQUEST")
    finally:
        await subscription.unsubscribe()
    assert [request.user_id for request in asked] == [user.id, user.id]
    assert asked[1].period_key == past["periodKey"] == "2026-02"
    assert current == {
        "periodKey": asked[0].period_key,
        "tier": "free",
        "usage": {
            **COUNTED,
            "userId": user.id,
            "periodKey": asked[0].period_key,
            "updatedAtMs": 7,
        },
        "byRuntime": {"cloudflare": COUNTED},
        "limits": {"requests": 1000, "tokens": 250_000, "computeMs": 5_000_000},
    }


async def test_recent_events(harness: Harness, user: User) -> None:
    agent = await user.create()
    asked: list[RecentEventsRequest] = []
    event = UsageEvent(
        id="use_1",
        user_id=user.id,
        agent_id=agent["id"],
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        timestamp_ms=12,
        counters=COUNTERS,
        source="both",
        invocation_id="inv_1",
        key_id="key_1",
        provider={"model": "m"},
    )

    def answer(body: bytes) -> bytes:
        asked.append(wire.decode(body, RecentEventsRequest))
        return wire.encode(RecentEventsReply(events=(event,)))

    subscription = await answering(harness, subjects.RPC_RECENT_EVENTS, answer)
    try:
        query = f"agentId={agent['id']}&sinceMs=5&limit=1000&errorsOnly=true"
        answered = ok(await user.http.get(f"/v1/metrics/recent?{query}"))
    finally:
        await subscription.unsubscribe()
    assert asked == [
        RecentEventsRequest(
            user_id=user.id, agent_id=agent["id"], since_ms=5, limit=100, errors_only=True
        )
    ]
    assert answered["events"] == [
        {
            **COUNTED,
            "id": "use_1",
            "userId": user.id,
            "agentId": agent["id"],
            "deploymentId": "dep_1",
            "runtimeProvider": "cloudflare",
            "invocationId": "inv_1",
            "keyId": "key_1",
            "timestampMs": 12,
            "source": "both",
            "provider": {"model": "m"},
        }
    ]


async def test_while_billing_is_away_only_usage_is(user: User) -> None:
    for path in ("/v1/usage/current", "/v1/metrics/recent"):
        response = await user.http.get(path)
        assert problem(response, 503, "UNAVAILABLE")["retryable"] is True
        assert response.headers["retry-after"].isdigit()
    await user.create()
