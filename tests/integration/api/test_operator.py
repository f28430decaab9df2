"""The feed of settled usage as operators' programs read it; billing's answers are the test's."""

import secrets

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.operator_tokens import hash_of, token_of
from webhost_contracts.usage_feed import (
    BATCH_TYPE,
    FeedEntry,
    Refusal,
    UsageFeedReply,
    UsageFeedRequest,
)
from webhost_contracts.usage_rpc import Counters

from tests.integration.api.harness import Harness, User, ok, problem
from tests.integration.api.test_rate_limits import limited
from tests.integration.api.test_usage import answering
from tests.support.usage_feed import read_batch

PATH = "/v1/operator/usage-events"
OLD, NEW, STRANGERS = (token_of(secrets.token_bytes(32)) for _ in range(3))
TOKENS = {"OPERATOR_TOKENS": f"kim:{hash_of(OLD)}, kim:{hash_of(NEW)}"}


def entry(number: int) -> FeedEntry:
    return FeedEntry(
        id=f"inv_{number}",
        user_id="usr_1",
        agent_id="agt_1",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        period_key="2026-11",
        at_ms=1_795_987_800_007,
        source="gateway",
        counters=Counters(requests=1, cost_picodollars=10**20),
        invocation_id=f"inv_{number}",
    )


@pytest.mark.accept("8.feed.cloudevents")
@pytest.mark.accept("8.feed.credential")
async def test_operators_read_the_feed_and_nobody_else_does(own_harness: Harness) -> None:
    harness = own_harness
    # No operator is configured: there is none.
    problem(await harness.with_token(OLD).get(PATH), 401, "UNAUTHENTICATED")
    await harness.service.stop()
    await harness.start(
        **TOKENS, UNKNOWN_KEYS_PER_MINUTE_AND_ADDRESS="6", TRUSTED_PROXIES="127.0.0.1"
    )
    asked: list[UsageFeedRequest] = []

    def answer(body: bytes) -> bytes:
        request = wire.decode(body, UsageFeedRequest)
        asked.append(request)
        if request.after in ("old", "other", "bad"):
            reasons = {"old": "expired", "other": "other_history", "bad": "invalid"}
            refused = Refusal(reason=reasons[request.after], message="Do this.")  # type: ignore[arg-type]
            return wire.encode(UsageFeedReply(refused=refused))
        more = request.after is None
        entries = tuple(map(entry, range(2))) if more else ()
        return wire.encode(UsageFeedReply(source="ins_1", entries=entries, next="abc", more=more))

    subscription = await answering(harness, subjects.RPC_USAGE_FEED, answer)
    operator = harness.with_token(OLD)
    try:
        first = await operator.get(PATH, params={"limit": 10_000})
        assert first.headers["content-type"] == BATCH_TYPE
        events = read_batch(first.content)
        assert [event.get_id() for event in events] == ["inv_0", "inv_1"]
        assert {(one.get_source(), one.get_subject()) for one in events} == {("ins_1", "usr_1")}
        assert events[0].get_data()["costPicodollars"] == str(10**20)
        assert first.headers["x-webhost-next-cursor"] == "abc"
        assert first.links["next"]["url"] == f"{PATH}?after=abc&limit=500"
        # Another token of the same operator, which is to replace it; the page behind.
        last = await harness.with_token(NEW).get(first.links["next"]["url"])
        assert (ok(last), last.headers["x-webhost-next-cursor"]) == ([], "abc")
        assert "link" not in last.headers
        for limit in (0, -5):
            ok(await operator.get(PATH, params={"limit": limit}))
        assert [(one.after, one.limit) for one in asked] == [
            *((None, 500), ("abc", 500)),
            *((None, 1), (None, 1)),
        ]
        for after, reason in (("old", "expired"), ("other", "other_history")):
            refused = problem(await operator.get(PATH, params={"after": after}), 409, "CONFLICT")
            assert (refused["details"], refused["retryable"]) == ({"reason": reason}, False)
            assert refused["message"] == "Do this."
        for after in ("bad", "no cursor", "é", "a" * 1001):
            refused = problem(
                await operator.get(PATH, params={"after": after}), 400, "INVALID_REQUEST"
            )
            assert refused["details"]["issues"][0]["path"] == ["after"]

        # A user with everything that a user can have, and made-up tokens; all look the same.
        count = len(asked)
        user = harness.user()
        key = await user.key("admin")
        tokens = (user.http.headers["Authorization"].split()[1], key.token, STRANGERS, "who_")
        clients = [*map(harness.with_token, tokens), harness.client()]
        clients.append(harness.client(Authorization=f"Basic {OLD}"))
        answers = [await client.get(PATH) for client in clients]
        errors = [problem(one, 401, "UNAUTHENTICATED") for one in answers]
        assert len({(one["message"], str(one["details"])) for one in errors}) == 1
        assert len(errors) == 6
        limited(await clients[0].get(PATH), "unknown-operators", "q=6;w=60")
        assert len(asked) == count
        # Who is good waits for none of them, and another address does not either.
        ok(await operator.get(PATH))
        elsewhere = {"X-Forwarded-For": "192.0.2.1"}
        problem(await clients[0].get(PATH, headers=elsewhere), 401, "UNAUTHENTICATED")
        # Nor is an operator's token one of a user's.
        for path in ("/v1/me", "/v1/agents", "/v1/usage/current"):
            problem(await operator.get(path), 401, "UNAUTHENTICATED")
    finally:
        await subscription.unsubscribe()
    assert problem(await operator.get(PATH), 503, "UNAVAILABLE")["retryable"] is True


async def test_a_users_requests_do_not_reach_the_operators(harness: Harness, user: User) -> None:
    problem(await user.http.get(PATH), 401, "UNAUTHENTICATED")
    problem(await user.http.post(PATH), 405, "METHOD_NOT_ALLOWED")
