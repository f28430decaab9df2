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
