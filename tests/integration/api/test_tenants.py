"""What of another's there is for a user; all operations with others' ids: see tests/e2e."""

import asyncio

import pytest
import sqlalchemy as sa

from tests.integration.api.harness import Harness, User, ok, problem


async def test_ones_own_deployment_of_another_agent_is_not_found(user: User) -> None:
    one, other = await user.create(), await user.create()
    deployment = await user.deploy(one["id"])
    path = f"/v1/agents/{other['id']}/deployments/{deployment['id']}/activate"
    problem(await user.http.post(path), 404, "NOT_FOUND")


@pytest.mark.accept("7.isolation")
async def test_requests_about_anothers_agent_or_key_neither_wait_nor_hold_up(
    harness: Harness, user: User
) -> None:
    agent_id = (await user.create())["id"]
    body = {"name": "mine", "scopes": ["invoke"]}
    key_id = ok(await user.http.post("/v1/keys", json=body), 201)["key"]["id"]
    other = harness.user()
    async with harness.database.transaction() as connection:
        # while something of the owner's is being decided
        for row, key in ("agents WHERE agent_id", agent_id), ("api_keys WHERE key_id", key_id):
            await connection.execute(sa.text(f"SELECT FROM {row} = :id FOR UPDATE"), {"id": key})
        async with asyncio.timeout(2):
            agent = f"/v1/agents/{agent_id}"
            problem(await other.http.patch(agent, json={"description": "x"}), 404, "NOT_FOUND")
            problem(await other.http.delete(agent), 404, "NOT_FOUND")
            problem(await other.http.delete(f"/v1/keys/{key_id}"), 404, "NOT_FOUND")


@pytest.mark.accept("6.D2")
@pytest.mark.accept("7.isolation")
async def test_a_request_names_its_user_to_the_database(harness: Harness, user: User) -> None:
    agent, other = await user.create(), harness.user()
    theirs = await other.create()
    by_key = (await user.key("read")).http
    path = f"/v1/agents/{agent['id']}"
    # given a policy that is false for this user's name alone, not for that of all users
    await harness.execute(
        "CREATE POLICY hidden ON agents AS RESTRICTIVE"
        f" USING (current_setting('webhost.user_id') <> '{user.id}')"
    )
    try:
        # when the user reads or writes, then nothing of the user's is there
        for http in user.http, by_key:
            assert ok(await http.get("/v1/agents"))["agents"] == []
            problem(await http.get(path), 404, "NOT_FOUND")
        problem(await user.http.patch(path, json={"description": "x"}), 404, "NOT_FOUND")
        # and for another everything
        assert [a["id"] for a in ok(await other.http.get("/v1/agents"))["agents"]] == [theirs["id"]]
    finally:
        await harness.execute("DROP POLICY hidden ON agents")
    assert ok(await user.http.get(path))["agent"]["id"] == agent["id"]
