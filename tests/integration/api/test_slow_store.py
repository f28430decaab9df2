"""A slow object store keeps its own deploy waiting, and nothing else."""

import asyncio

import pytest

from tests.integration.api.harness import Harness, ok
from tests.integration.api.slow_store import waiting_deploy

PATCHES = 10


@pytest.mark.accept("A12")
async def test_while_the_store_is_slow_no_lock_and_no_connection_is_held(
    own_harness: Harness,
) -> None:
    async with waiting_deploy(own_harness) as deploy:
        user, path = deploy.user, f"/v1/agents/{deploy.agent_id}"
        for number in range(PATCHES):
            async with asyncio.timeout(3):
                ok(await user.http.patch(path, json={"name": f"name {number}"}))
        assert not deploy.answer.done()
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        )
        await own_harness.until_scalar(query, 0, "no transaction to be open", seconds=3)
        assert not deploy.answer.done()
        deploy.proxy.release()
        deployment = ok(await deploy.answer, 202)["deployment"]
        assert (await user.deployment(deployment["id"]))["status"] == "deploying"
