"""Decisions about one agent that meet: each is made on what the other left, whichever is first.

Each race is run several times at once, on agents of one user, so that both orders come up.
"""

import asyncio

import pytest
import sqlalchemy as sa
from webhost_contracts.commands import TEAR_DOWN_AGENT, TearDownAgent

from tests.integration.api.harness import Harness, User, ok, problem
from tests.integration.api.slow_store import waiting_deploy
from tests.integration.api.test_deploying import deployed, succeeded, until_status

AGENTS = 6
KEPT = 5
AT_ONCE = 5
SUCCEEDED_IN = 4


async def several(user: User) -> list[str]:
    return [(await user.create())["id"] for _ in range(AGENTS)]


@pytest.mark.accept("4.table")
async def test_a_rollback_and_a_deploy_at_once(harness: Harness, user: User) -> None:
    async def race(agent_id: str) -> tuple[int, int]:
        first = await deployed(harness, user, agent_id)
        second = await deployed(harness, user, agent_id)
        path = f"/v1/agents/{agent_id}"
        rollback, deploy = await asyncio.gather(
            user.http.post(f"{path}/deployments/{first['id']}/activate"),
            user.http.post(f"{path}/deploy"),
        )
        # A running deploy refuses the rollback; a rollback refuses no deploy.
        third = ok(deploy, 202)["deployment"]
        if rollback.status_code != 200:
            problem(rollback, 409, "CONFLICT")
        pointed = first if rollback.status_code == 200 else second
        assert (await user.agent(agent_id))["activeDeploymentId"] == pointed["id"]
        # Made before the deploy was asked for, it is no later decision: the success flips.
        problem(await user.http.post(f"{path}/deployments/{first['id']}/activate"), 409, "CONFLICT")
        await harness.given(user.id, third["id"], succeeded(agent_id), version=SUCCEEDED_IN)
        assert (await until_status(user, third["id"], "active", "inactive"))["status"] == "active"
        assert (await user.agent(agent_id))["activeDeploymentId"] == third["id"]
        return rollback.status_code, deploy.status_code

    await asyncio.gather(*map(race, await several(user)))


@pytest.mark.accept("4.table")
async def test_an_activation_and_a_retirement_at_once(harness: Harness, user: User) -> None:
    async def race(agent_id: str) -> None:
        made = [await deployed(harness, user, agent_id) for _ in range(KEPT)]
        oldest = made[0]["id"]
        newest = await user.deploy(agent_id, setAsActive=False)
        path = f"/v1/agents/{agent_id}/deployments/{oldest}/activate"
        # when the deploy ends, which retires the oldest one, while that is being activated
        *activations, _ = await asyncio.gather(
            *(user.http.post(path) for _ in range(AT_ONCE)),
            harness.given(user.id, newest["id"], succeeded(agent_id), version=SUCCEEDED_IN),
        )
        for activation in activations:
            problem(activation, 409, "CONFLICT")
        await until_status(user, newest["id"], "inactive")
        # then it was never pointed at, and cannot be
        problem(await user.http.post(path), 409, "CONFLICT")
        assert (await user.agent(agent_id))["activeDeploymentId"] == made[-1]["id"]

    await asyncio.gather(*map(race, (await several(user))[:3]))


@pytest.mark.accept("4.table")
async def test_of_an_active_deployment_and_its_retirement_the_pointer_wins(
    harness: Harness, user: User
) -> None:
    agent_id = (await user.create())["id"]
    made = [await deployed(harness, user, agent_id) for _ in range(KEPT)]
    path = f"/v1/agents/{agent_id}/deployments/{made[0]['id']}/activate"
    ok(await user.http.post(path))
    await deployed(harness, user, agent_id, setAsActive=False)
    agent = await user.agent(agent_id)
    assert agent["activeDeploymentId"] == made[0]["id"]
    ok(await user.http.post(path))
    # The next oldest went instead: nothing more than what is kept, and the active one.
    later = f"/v1/agents/{agent_id}/deployments/{made[1]['id']}/activate"
    ok(await user.http.post(later))


@pytest.mark.accept("4.table")
async def test_a_disable_during_a_deploy(harness: Harness, user: User) -> None:
    async def race(agent_id: str) -> None:
        first = await deployed(harness, user, agent_id)
        second = await user.deploy(agent_id)
        path = f"/v1/agents/{agent_id}"
        disable, _ = await asyncio.gather(
            user.http.post(f"{path}/disable"),
            harness.given(user.id, second["id"], succeeded(agent_id), version=SUCCEEDED_IN),
        )
        ok(disable)
        await until_status(user, second["id"], "active")
        # The deploy did what it was asked for; the agent stays disabled until it is enabled.
        agent = await user.agent(agent_id)
        assert (agent["status"], agent["activeDeploymentId"]) == ("disabled", second["id"])
        for refused in ("deploy", f"deployments/{first['id']}/activate"):
            problem(await user.http.post(f"{path}/{refused}"), 409, "CONFLICT")
        assert ok(await user.http.post(f"{path}/enable"))["agent"]["status"] == "active"

    await asyncio.gather(*map(race, await several(user)))


@pytest.mark.accept("4.table")
async def test_a_deletion_and_a_success_at_once(harness: Harness, user: User) -> None:
    async def race(agent_id: str) -> str:
        deployment = await user.deploy(agent_id)
        gone, _ = await asyncio.gather(
            user.http.delete(f"/v1/agents/{agent_id}"),
            harness.given(user.id, deployment["id"], succeeded(agent_id), version=SUCCEEDED_IN),
        )
        deleted = ok(gone)["agent"]
        assert (deleted["status"], deleted.get("activeDeploymentId")) == ("deleted", None)
        ended = await until_status(user, deployment["id"], "failed", "inactive")
        problem(await user.http.get(f"/v1/agents/{agent_id}"), 404, "NOT_FOUND")
        await harness.command(TEAR_DOWN_AGENT, agent_id, TearDownAgent)
        return ended["status"]

    await asyncio.gather(*map(race, await several(user)))


@pytest.mark.accept("4.table")
async def test_an_agent_that_is_deleted_while_its_code_is_stored_is_not_deployed(
    own_harness: Harness,
) -> None:
    # given a deploy that waits for the store
    async with waiting_deploy(own_harness) as deploy:
        # when its agent is deleted meanwhile
        ok(await deploy.user.http.delete(f"/v1/agents/{deploy.agent_id}"))
        assert not deploy.answer.done()
        deploy.proxy.release()
        # then nothing was deployed
        problem(await deploy.answer, 404, "NOT_FOUND")
        assert await own_harness.scalar("SELECT count(*) FROM deployments") == 0


@pytest.mark.accept("6.C1")
async def test_many_changes_of_one_user_hold_up_nobody_else(harness: Harness, user: User) -> None:
    """More than there are connections, while a decision of the same user's takes its time."""
    agent_id, other = (await user.create())["id"], harness.user()
    await other.create()
    async with harness.database.transaction() as connection:
        lock = sa.text("SELECT FROM users WHERE user_id = :user_id FOR UPDATE")
        await connection.execute(lock, {"user_id": user.id})
        path = f"/v1/agents/{agent_id}"
        changes = [
            asyncio.create_task(user.http.patch(path, json={"description": str(number)}))
            for number in range(40)
        ]
        await asyncio.sleep(0.3)
        async with asyncio.timeout(2):
            await other.create()
            ok(await user.http.get("/v1/agents"))
    for answer in await asyncio.gather(*changes):
        ok(answer)
