"""A user's agents: made, changed, listed, switched, deleted; and the user."""

import asyncio

import psycopg
import pytest
from webhost_contracts.events import AgentCreated, TierChanged, UserRegistered

from tests.integration.api.harness import Harness, User, ok, problem
from tests.support.deadline import eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def on_tier(harness: Harness, user: User, tier: str, version: int = 1) -> None:
    ok(await user.http.get("/v1/me"))
    event = TierChanged(tier=tier, previous_tier="free", source="operator")
    await harness.given(user.id, user.id, event, version=version)

    async def changed() -> bool:
        return ok(await user.http.get("/v1/me"))["user"]["tier"] == tier

    await eventually(changed, f"the tier {tier}")


@pytest.mark.accept("2.registration")
async def test_the_first_request_registers_the_user_once(harness: Harness) -> None:
    user = harness.user("alice", email="alice@example.com", name="Alice")
    async with user.http as http:
        answers = await asyncio.gather(*[http.get("/v1/me") for _ in range(8)])
    users = [ok(answer)["user"] for answer in answers]
    assert all(it == users[0] for it in users)
    assert users[0]["id"] == user.id
    assert users[0]["subject"] == "alice"
    assert users[0]["email"] == "alice@example.com"
    assert users[0]["tier"] == "free"
    assert users[0]["entitlements"]["requests"] == 1000
    envelope = await harness.fact(user.id, UserRegistered, user.id)
    assert envelope.version == 1
    with psycopg.connect(harness.dsn) as connection:
        query = "SELECT count(*) FROM events WHERE aggregate_id = %s"
        assert connection.execute(query, (user.id,)).fetchone() == (1,)


async def test_an_agent_is_made_and_its_fact_stated(harness: Harness, user: User) -> None:
    response = await user.http.post(
        "/v1/agents",
        json={"name": " mine ", "description": "d", "envVarKeys": ["API_KEY"]},
        headers={"traceparent": TRACEPARENT, "X-Request-Id": "r-1"},
    )
    agent = ok(response, 201)["agent"]
    assert agent == {
        "id": agent["id"],
        "userId": user.id,
        "name": "mine",
        "description": "d",
        "status": "created",
        "envVarKeys": ["API_KEY"],
        "createdAtMs": agent["createdAtMs"],
        "updatedAtMs": agent["createdAtMs"],
    }
    envelope = await harness.fact(user.id, AgentCreated, agent["id"])
    assert envelope.actor == f"user:{user.id}"
    assert envelope.request_id == "r-1"
    assert envelope.traceparent == TRACEPARENT
    assert envelope.occurred_at_ms == agent["createdAtMs"]
    assert await user.agent(agent["id"]) == agent


async def test_a_patch_changes_what_it_names(user: User) -> None:
    agent = await user.create(description="old", envVarKeys=["A"])
    path = f"/v1/agents/{agent['id']}"
    same = ok(await user.http.patch(path, json={"name": None, "description": None}))["agent"]
    assert same == agent
    changed = ok(await user.http.patch(path, json={"name": "new", "envVarKeys": ["A", "B"]}))[
        "agent"
    ]
    assert (changed["name"], changed["description"]) == ("new", "old")
    assert changed["envVarKeys"] == ["A", "B"]
    cleared = ok(await user.http.patch(path, json={"description": ""}))["agent"]
    assert "description" not in cleared
    assert cleared == await user.agent(agent["id"])


async def test_names_are_unique_among_a_users_living_agents(harness: Harness, user: User) -> None:
    first = await user.create(name="same")
    problem(await user.http.post("/v1/agents", json={"name": "same"}), 409, "CONFLICT")
    second = await user.create(name="other")
    path = f"/v1/agents/{second['id']}"
    problem(await user.http.patch(path, json={"name": "same"}), 409, "CONFLICT")
    async with (other := harness.user()).http:
        await other.create(name="same")
    ok(await user.http.delete(f"/v1/agents/{first['id']}"))
    await user.create(name="same")


async def test_disable_and_enable(user: User) -> None:
    agent = await user.create()
    path = f"/v1/agents/{agent['id']}"
    for _ in range(2):
        disabled = ok(await user.http.post(f"{path}/disable"))["agent"]
        assert disabled["status"] == "disabled"
        assert disabled["disabledAtMs"] >= agent["createdAtMs"]
    problem(await user.http.post(f"{path}/deploy"), 409, "CONFLICT")
    enabled = ok(await user.http.post(f"{path}/enable"))["agent"]
    assert enabled["status"] == "created"
    assert "disabledAtMs" not in enabled


async def test_a_deleted_agent_is_not_found_anywhere(user: User) -> None:
    agent = await user.create()
    path = f"/v1/agents/{agent['id']}"
    assert ok(await user.http.delete(path))["agent"]["status"] == "deleted"
    for method, suffix in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/disable"),
        ("POST", "/enable"),
        ("POST", "/deploy"),
        ("GET", "/deployments"),
    ):
        body = {} if method == "PATCH" else None
        problem(await user.http.request(method, path + suffix, json=body), 404, "NOT_FOUND")


@pytest.mark.accept("2.lists")
async def test_lists_are_paged_newest_first(harness: Harness, user: User) -> None:
    await on_tier(harness, user, "pro")
    made = [(await user.create())["id"] for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor is not None:
        query = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = ok(await user.http.get("/v1/agents", params=query))
        assert set(page) == {"agents", "nextCursor"}
        seen += [agent["id"] for agent in page["agents"]]
        cursor, pages = page["nextCursor"], pages + 1
    assert pages == 3
    assert seen == sorted(seen, reverse=True)
    assert sorted(seen) == sorted(made)
    for limit, count in (("0", 1), ("-5", 1), ("1000", 7), ("7", 7)):
        page = ok(await user.http.get("/v1/agents", params={"limit": limit}))
        assert len(page["agents"]) == count


async def test_lists_are_filtered(user: User) -> None:
    living, disabled, deleted = [(await user.create())["id"] for _ in range(3)]
    ok(await user.http.post(f"/v1/agents/{disabled}/disable"))
    ok(await user.http.delete(f"/v1/agents/{deleted}"))

    async def listed(query: str) -> set[str]:
        answer = ok(await user.http.get(f"/v1/agents?{query}"))
        return {agent["id"] for agent in answer["agents"]}

    assert await listed("") == {living, disabled}
    assert await listed("includeDeleted=true") == {living, disabled, deleted}
    assert await listed("status=disabled") == {disabled}
    assert await listed("status=deleted") == {deleted}
    assert await listed("status=active") == set()


async def test_the_tier_bounds_the_number_of_agents_also_at_once(user: User) -> None:
    answers = await asyncio.gather(
        *[user.http.post("/v1/agents", json={"name": f"n{n}"}) for n in range(14)]
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [402] * 4
    refused = next(answer for answer in answers if answer.status_code == 402)
    details = problem(refused, 402, "LIMIT_EXCEEDED")["details"]
    assert details["limitType"] == "agents"
    assert (details["current"], details["limit"]) == (10, 10)


@pytest.mark.accept("7.tiers")
async def test_agentcore_is_gated_by_tier(harness: Harness, user: User) -> None:
    body = {"name": "a", "preferredRuntimeProvider": "agentcore"}
    details = problem(await user.http.post("/v1/agents", json=body), 402, "LIMIT_EXCEEDED")
    assert details["details"]["limitType"] == "agentcoreEnabled"
    await on_tier(harness, user, "enterprise")
    problem(await user.http.post("/v1/agents", json=body), 400, "INVALID_REQUEST")
    agent = await user.create(preferredRuntimeProvider="cloudflare")
    assert agent["preferredRuntimeProvider"] == "cloudflare"


async def test_an_older_tier_never_replaces_a_newer_one(harness: Harness, user: User) -> None:
    await on_tier(harness, user, "pro", version=2)
    old = TierChanged(tier="starter", previous_tier="free", source="operator")
    await harness.given(user.id, user.id, old)
    await on_tier(harness, marker := harness.user(), "starter")  # folded behind the old fact
    await marker.http.aclose()
    assert ok(await user.http.get("/v1/me"))["user"]["tier"] == "pro"


async def test_a_tier_may_come_before_the_user(harness: Harness) -> None:
    user = harness.user()
    event = TierChanged(tier="starter", previous_tier="free", source="operator")
    await harness.given(user.id, user.id, event)

    async def folded() -> bool:
        return ok(await user.http.get("/v1/me"))["user"]["tier"] == "starter"

    await eventually(folded, "the tier")
    await user.http.aclose()
