"""What a user can make grow is bounded by the tier; each refusal says what to do."""

import asyncio
import itertools
from typing import Any

import pytest
from webhost_api.bounds import DAY_MS, HOUR_MS
from webhost_contracts.events import DeploymentTornDown

from tests.integration.api.harness import Harness, User, ok, problem
from tests.integration.api.test_deploying import deployed, succeeded, until_status

TIER = """
[free]
requestsPerMinute = 6000
telemetryDays = 7
logDays = 3
"""


async def limited(harness: Harness, **limits: int) -> User:
    """A user of an api whose tier has these limits, and no others."""
    file = harness.directory / "tiers.toml"
    file.write_text(TIER + "".join(f"{name} = {limit}\n" for name, limit in limits.items()))
    await harness.service.kill()
    await harness.start(WEBHOST_TIERS_FILE=str(file))
    return harness.user()


def refused(response: Any, limit_type: str, *, again_ms: int) -> dict[str, Any]:
    """The refusal of a window that is full, for about this long."""
    error = problem(response, 429, "RATE_LIMITED")
    assert error["retryable"] is True
    assert error["details"]["limitType"] == limit_type
    assert error["details"]["current"] == error["details"]["limit"]
    assert "Wait " in error["message"]
    assert "upgrade" in error["message"]
    assert response.headers["ratelimit"].startswith(f'"{limit_type}";r=0;t=')
    assert response.headers["ratelimit-policy"].startswith(f'"{limit_type}";q=')
    assert again_ms - 60_000 < int(response.headers["retry-after"]) * 1000 <= again_ms + 1000
    return error


async def aged(harness: Harness, table: str, column: str, ms: int) -> None:
    await harness.execute(f"UPDATE {table} SET {column} = {column} - :ms", ms=ms)


@pytest.mark.accept("6.C3.agents")
async def test_agents_ever_created(own_harness: Harness) -> None:
    user = await limited(own_harness, agentsCreated=3)
    for _ in range(3):
        agent = await user.create()
        ok(await user.http.delete(f"/v1/agents/{agent['id']}"))
    error = problem(await user.http.post("/v1/agents", json={"name": "a"}), 402, "LIMIT_EXCEEDED")
    assert error["details"] == {
        "limitType": "agentsCreated",
        "current": 3,
        "limit": 3,
        "suggestedAction": "upgrade",
    }
    assert "deleted ones included" in error["message"]
    await own_harness.user().create()  # another user's own


@pytest.mark.accept("6.C2.deploys")
async def test_deploys_an_hour(own_harness: Harness) -> None:
    user = await limited(own_harness, deploysPerHour=2, deploysPerDay=3)
    agents = [await user.create() for _ in range(4)]
    for agent in agents[:2]:
        await user.deploy(agent["id"])
    path = f"/v1/agents/{agents[2]['id']}/deploy"
    error = refused(await user.http.post(path, json={}), "deploysPerHour", again_ms=HOUR_MS)
    assert "2 deploys an hour" in error["message"]
    other = own_harness.user()
    await other.deploy((await other.create())["id"])

    # An hour later there is room again, but the day's bound is near.
    await aged(own_harness, "deployments", "created_at_ms", HOUR_MS)
    await user.deploy(agents[2]["id"])
    path = f"/v1/agents/{agents[3]['id']}/deploy"
    answer = await user.http.post(path, json={})
    assert "3 deploys a day" in refused(answer, "deploysPerDay", again_ms=23 * HOUR_MS)["message"]
    await aged(own_harness, "deployments", "created_at_ms", DAY_MS)
    await user.deploy(agents[3]["id"])


@pytest.mark.accept("6.C2.deploys")
async def test_deploys_at_once_do_not_pass_the_bound(own_harness: Harness) -> None:
    user = await limited(own_harness, deploysPerHour=3)
    agents = [await user.create() for _ in range(12)]
    answers = await asyncio.gather(
        *(user.http.post(f"/v1/agents/{agent['id']}/deploy", json={}) for agent in agents)
    )
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 9


@pytest.mark.accept("6.C2.deploys")
async def test_an_old_idempotency_key_does_not_make_a_deploy_old(own_harness: Harness) -> None:
    """A deployment's id has the time of the key's first try; what is counted is when it was."""
    user = await limited(own_harness, deploysPerHour=1)
    agents = [await user.create() for _ in range(2)]
    headers = {"Idempotency-Key": "old"}
    path = f"/v1/agents/{agents[0]['id']}/deploy"
    disable = f"/v1/agents/{agents[0]['id']}/disable"
    ok(await user.http.post(disable))
    problem(await user.http.post(path, json={}, headers=headers), 409, "CONFLICT")
    await aged(own_harness, "idempotency_claims", "first_tried_at_ms", 2 * HOUR_MS)
    ok(await user.http.post(f"/v1/agents/{agents[0]['id']}/enable"))
    first = ok(await user.http.post(path, json={}, headers=headers), 202)
    answer = await user.http.post(f"/v1/agents/{agents[1]['id']}/deploy", json={})
    refused(answer, "deploysPerHour", again_ms=HOUR_MS)
    # The first answer is given again, bound or not.
    assert ok(await user.http.post(path, json={}, headers=headers), 202) == first


@pytest.mark.accept("6.C3.facts")
async def test_changes_a_day_and_what_they_never_refuse(own_harness: Harness) -> None:
    harness = own_harness
    user = await limited(harness, changesPerDay=12)
    agent, other = await user.create(), await user.create()
    key = await user.key("read")
    ok(await user.http.post(f"/v1/keys/{key.id}/rotate", json={}))
    first = await deployed(harness, user, agent["id"])
    second = await deployed(harness, user, agent["id"])
    third = await user.deploy(agent["id"])
    path = f"/v1/agents/{agent['id']}"
    for number in itertools.count():
        answer = await user.http.patch(path, json={"description": f"{number}"})
        if answer.status_code != 200:
            break
        assert number < 12
    assert "12 changes a day" in refused(answer, "changesPerDay", again_ms=DAY_MS)["message"]
    again = {"again_ms": DAY_MS}
    refused(await user.http.post("/v1/agents", json={"name": "b"}), "changesPerDay", **again)
    body = {"name": "k", "scopes": ["read"]}
    refused(await user.http.post("/v1/keys", json=body), "changesPerDay", **again)
    rotate = f"/v1/keys/{key.id}/rotate"
    refused(await user.http.post(rotate, json={}), "changesPerDay", **again)
    deploy = f"/v1/agents/{other['id']}/deploy"
    refused(await user.http.post(deploy, json={}), "changesPerDay", **again)

    # What follows from what was allowed is stated, with the pointer's change.
    await harness.given(user.id, third["id"], succeeded(agent["id"]), version=4)
    await until_status(user, third["id"], "active")
    back = f"{path}/deployments/{first['id']}/activate"
    refused(await user.http.post(back), "changesPerDay", **again)
    # What changes nothing is no change; a disable, a deletion, a revocation are never refused.
    ok(await user.http.delete(f"/v1/keys/{key.id}"), 204)
    ok(await user.http.post(f"{path}/enable"))
    ok(await user.http.post(f"{path}/disable"))
    refused(await user.http.post(f"{path}/enable"), "changesPerDay", **again)
    ok(await user.http.delete(path))
    ok(await user.http.delete(f"/v1/agents/{other['id']}"))
    await harness.given(user.id, second["id"], DeploymentTornDown(agent_id=agent["id"]), version=5)
    await until_status(user, second["id"], "deleted")


@pytest.mark.accept("6.C3.keys")
async def test_idempotency_keys_that_are_remembered(own_harness: Harness) -> None:
    user = await limited(own_harness, agents=1, changesPerDay=5)
    agent = await user.create()

    async def create(key: str) -> Any:
        headers = {"Idempotency-Key": key}
        return await user.http.post("/v1/agents", json={"name": "b"}, headers=headers)

    # A refusal changes nothing, but its key is remembered.
    for number in range(5):
        problem(await create(f"{number}"), 402, "LIMIT_EXCEEDED")
    error = refused(await create("new"), "idempotencyKeysPerDay", again_ms=DAY_MS)
    assert "send the request without a key" in error["message"]
    problem(await create("0"), 402, "LIMIT_EXCEEDED")
    problem(await user.http.post("/v1/agents", json={"name": "b"}), 402, "LIMIT_EXCEEDED")

    # So are the answers to what changed nothing.
    path = f"/v1/agents/{agent['id']}/enable"
    answers = [
        await user.http.post(path, headers={"Idempotency-Key": f"{number}"}) for number in range(6)
    ]
    for answer in answers[:5]:
        ok(answer)
    refused(answers[5], "idempotencyKeysPerDay", again_ms=DAY_MS)
    ok(await user.http.post(path, headers={"Idempotency-Key": "3"}))
    ok(await user.http.post(path))


@pytest.mark.accept("6.C3.keys")
async def test_one_users_bounds_are_in_the_answer_to_me(own_harness: Harness) -> None:
    user = await limited(own_harness, agentsCreated=3, deploysPerHour=2, changesPerDay=12)
    allowed = ok(await user.http.get("/v1/me"))["user"]["entitlements"]
    assert (allowed["agentsCreated"], allowed["deploysPerHour"]) == (3, 2)
    assert (allowed["deploysPerDay"], allowed["changesPerDay"]) == (None, 12)
