"""A slow object store keeps its own deploy waiting, and nothing else."""

import asyncio
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.integration.api.harness import Harness, ok
from tests.support.deadline import eventually
from tests.support.proxy import Proxy

PATCHES = 10


@pytest.mark.accept("A12")
async def test_while_the_store_is_slow_no_lock_and_no_connection_is_held(
    own_harness: Harness,
) -> None:
    harness = own_harness
    url = urlsplit(harness.nats_url)
    await harness.service.kill()
    async with Proxy(url.port or 0) as proxy:
        netloc = f"{url.username}:{url.password}@127.0.0.1:{proxy.port}"
        await harness.start(NATS_URL=f"nats://{netloc}")
        user = harness.user()
        agent = await user.create()
        path = f"/v1/agents/{agent['id']}"

        proxy.hold()
        headers = {"Idempotency-Key": "k"}
        deploy = asyncio.create_task(user.http.post(f"{path}/deploy", json={}, headers=headers))
        with psycopg.connect(harness.dsn, autocommit=True) as connection:

            async def arrived() -> bool:
                query = "SELECT count(*) FROM idempotency_claims"
                return connection.execute(query).fetchone() == (1,)

            await eventually(arrived, "the deploy to have begun")
            for number in range(PATCHES):
                async with asyncio.timeout(3):
                    ok(await user.http.patch(path, json={"name": f"name {number}"}))
            assert not deploy.done()
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state LIKE 'idle in transaction%'"
            )

            async def nothing_held() -> bool:
                return connection.execute(query).fetchone() == (0,)

            await eventually(nothing_held, "no transaction to be open", seconds=3)
            assert not deploy.done()
        proxy.release()
        deployment = ok(await deploy, 202)["deployment"]
        assert (await user.deployment(deployment["id"]))["status"] == "deploying"
