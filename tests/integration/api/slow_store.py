"""A deploy that waits for a slow artifact store: the bus passes nothing on until it is released."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from tests.integration.api.harness import Harness, User
from tests.support.proxy import Proxy


@dataclass(frozen=True)
class WaitingDeploy:
    """The deploy's request, and whose agent it is of. `proxy` holds the store back."""

    user: User
    agent_id: str
    answer: asyncio.Task[httpx.Response]
    proxy: Proxy


@asynccontextmanager
async def waiting_deploy(harness: Harness) -> AsyncGenerator[WaitingDeploy]:
    """Start the api anew, behind a proxy, and a deploy at it; the block begins when that waits."""
    url = urlsplit(harness.nats_url)
    await harness.service.kill()
    async with Proxy(url.port or 0) as proxy:
        netloc = f"{url.username}:{url.password}@127.0.0.1:{proxy.port}"
        await harness.start(NATS_URL=f"nats://{netloc}")
        user = harness.user()
        agent_id = (await user.create())["id"]
        proxy.hold()
        headers = {"Idempotency-Key": "k"}
        path = f"/v1/agents/{agent_id}/deploy"
        answer = asyncio.create_task(user.http.post(path, json={}, headers=headers))
        claims = "SELECT count(*) FROM idempotency_claims"
        await harness.until_scalar(claims, 1, "the deploy to have begun")
        yield WaitingDeploy(user, agent_id, answer, proxy)
