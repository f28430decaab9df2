"""Many deploys of many users at once, by the real api and four deployers, within Cloudflare's rate.

The edge blocks who makes more calls than Cloudflare allows. An agent has one deploy at a time: each
is deployed again as soon as its last deploy has ended.
"""

import asyncio
import bisect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

import httpx
import pytest
from webhost_deployer.cloudflare.rate_limiter import CAPACITY, REFILL_PER_S

from tests.integration.api.harness import Harness as Api
from tests.integration.api.harness import User
from tests.integration.deployer.faulty_cloudflare import Line, faulty_cloudflare
from tests.integration.deployer.harness import Harness
from tests.support.edge import Edge, start_edge

DEPLOYERS = 4
HEAVY = {f"heavy-{number}": 6 for number in range(8)}
LIGHT = {f"light-{number}": 1 for number in range(2)}
DEPLOYS = 4
"""Of each agent: 200 of 50 agents of 10 users."""
ALL_S = 1_200
WINDOW_MS = 5 * 60_000


@pytest.fixture(scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One that has Cloudflare's own limit on calls."""
    async with start_edge(tmp_path_factory.mktemp("edge"), EDGE_IDLE_SECONDS="10") as running:
        yield running


@pytest.mark.long
@pytest.mark.timeout(ALL_S + 120)
@pytest.mark.accept("7.saga.flood")
async def test_two_hundred_deploys_of_fifty_agents_of_ten_users(
    api: Api, harness: Harness, edge: Edge
) -> None:
    began = time.monotonic()
    async with (
        faulty_cloudflare(edge) as cloudflare,
        cloudflare.line(Line(f"{secrets.token_hex(4)}.example")) as line,
    ):
        harness.env["CLOUDFLARE_API_BASE_URL"] = line.api_base_url
        for _ in range(DEPLOYERS):
            await harness.start()
        took = await all_deployed(api)
    seconds = time.monotonic() - began
    light = [it for user in LIGHT for it in took[user]]
    heavy = [it for user in HEAVY for it in took[user]]
    light_s, heavy_s = [it.seconds for it in light], [it.seconds for it in heavy]
    before_light, before_heavy = (
        [it.ended_before for it in light],
        [it.ended_before for it in heavy],
    )
    most = most_in_a_window(line.made_at_ms)
    print(
        f"flood: {len(light) + len(heavy)} deploys in {seconds:.0f} s, {len(line.made)} calls, at"
        f" most {most} in five minutes; median of a light user {median(light_s):.0f} s (worst"
        f" {max(light_s):.0f}), of a heavy one {median(heavy_s):.0f} s (worst {max(heavy_s):.0f});"
        f" deploys that ended during a light user's: {median(before_light):.0f} (at most"
        f" {max(before_light)}), during a heavy one's: {median(before_heavy):.0f}"
    )
    assert len(light) + len(heavy) == 200
    # In turns, each other user has one in the meantime; in one queue, all agents have.
    assert median(before_light) <= 2 * len(took)
    assert max(before_light) < median(before_heavy)
    assert most <= CAPACITY + REFILL_PER_S * WINDOW_MS / 1000
    assert seconds * REFILL_PER_S + CAPACITY < 2 * len(line.made), "the rate did not matter"
    assert len(await harness.scripts()) == len(await harness.routes()) == 200


class Took(NamedTuple):
    """How long a deploy took until it was in force, and how many others ended in the meantime."""

    seconds: float
    ended_before: int


async def all_deployed(api: Api) -> dict[str, list[Took]]:
    """Deploy everything; return, by user, how long each deploy took."""
    took: dict[str, list[Took]] = {subject: [] for subject in HEAVY | LIGHT}

    def ended_so_far() -> int:
        return sum(map(len, took.values()))

    async def one_agent(subject: str, user: User) -> None:
        created = await post(user, "/v1/agents", {"name": f"agent {secrets.token_hex(4)}"})
        agent = created["agent"]["id"]
        for version in range(1, DEPLOYS + 1):
            began, ended_then = time.monotonic(), ended_so_far()
            requested = (await post(user, f"/v1/agents/{agent}/deploy", {}))["deployment"]
            assert requested["version"] == version
            ended = await ended_of(user, requested["id"])
            assert ended["status"] == "active", ended
            current = await get(user, f"/v1/agents/{agent}")
            assert current["agent"]["activeDeploymentId"] == requested["id"]
            meanwhile = ended_so_far() - ended_then
            took[subject].append(Took(time.monotonic() - began, meanwhile))

    async with asyncio.timeout(ALL_S), asyncio.TaskGroup() as group:
        for subject, agents in (HEAVY | LIGHT).items():
            user = api.user(subject, exp=int(time.time()) + 2 * ALL_S)
            for _ in range(agents):
                group.create_task(one_agent(subject, user))
    return took


async def ended_of(user: User, deployment_id: str) -> Any:
    while True:
        found = (await get(user, f"/v1/deployments/{deployment_id}"))["deployment"]
        if found["status"] != "deploying":
            return found
        await asyncio.sleep(1)


async def post(user: User, path: str, body: dict[str, Any]) -> Any:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    return await answered(lambda: user.http.post(path, json=body, headers=key))


async def get(user: User, path: str) -> Any:
    return await answered(lambda: user.http.get(path))


async def answered(call: Callable[[], Awaitable[httpx.Response]]) -> Any:
    """Call as a client should: again where that may help, as on a machine that is overloaded."""
    while True:
        with suppress(httpx.TransportError):
            response = await call()
            if response.is_success:
                return response.json()
            assert response.json()["error"]["retryable"], response.text
        await asyncio.sleep(1)


def most_in_a_window(at_ms: list[int]) -> int:
    """How many of these times lie within five minutes at the most."""
    times = sorted(at_ms)
    return max(bisect.bisect(times, it + WINDOW_MS) - i for i, it in enumerate(times))
