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
from typing import Any

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
    before = await succeeded_meanwhile(harness)
    users = {subject: api.user(subject).id for subject in HEAVY | LIGHT}
    before_light = [it for subject in LIGHT for it in before[users[subject]]]
    before_heavy = [it for subject in HEAVY for it in before[users[subject]]]
    most = most_in_a_window(line.made_at_ms)
    print(
        f"flood: {len(light) + len(heavy)} deploys in {seconds:.0f} s, {len(line.made)} calls, at"
        f" most {most} in five minutes; median of a light user {median(light):.0f} s (worst"
        f" {max(light):.0f}), of a heavy one {median(heavy):.0f} s (worst {max(heavy):.0f});"
        f" deploys that succeeded during a light user's: {median(before_light):.0f} (at most"
        f" {max(before_light)}), during a heavy one's: {median(before_heavy):.0f}"
    )
    assert len(light) + len(heavy) == 200
    # In turns, each other user has one in the meantime; in one queue, all agents have.
    assert median(before_light) <= 2 * len(took)
    assert max(before_light) < median(before_heavy)
    assert most <= CAPACITY + REFILL_PER_S * WINDOW_MS / 1000
    assert seconds * REFILL_PER_S + CAPACITY < 2 * len(line.made), "the rate did not matter"
    assert len(await harness.scripts()) == len(await harness.routes()) == 200


async def succeeded_meanwhile(harness: Harness) -> dict[str, list[int]]:
    """How many others succeeded between each deployment's start and its success, by user: no slow
    machine changes it, and no api that is behind.
    """
    facts = await harness.rows(
        "SELECT began.user_id, began.occurred_at_ms AS began_ms, ended.occurred_at_ms AS ended_ms"
        " FROM events began JOIN events ended USING (aggregate_id)"
        " WHERE began.type = 'deployment.started.v1' AND ended.type = 'deployment.succeeded.v1'"
    )
    ends = sorted(it["ended_ms"] for it in facts)
    meanwhile: dict[str, list[int]] = {it["user_id"]: [] for it in facts}
    for it in facts:
        count = bisect.bisect_left(ends, it["ended_ms"]) - bisect.bisect(ends, it["began_ms"])
        meanwhile[it["user_id"]].append(count)
    return meanwhile


async def all_deployed(api: Api) -> dict[str, list[float]]:
    """Deploy everything; return, by user, how many seconds it took until each was in force."""
    took: dict[str, list[float]] = {subject: [] for subject in HEAVY | LIGHT}

    async def one_agent(subject: str, user: User) -> None:
        created = await post(user, "/v1/agents", {"name": f"agent {secrets.token_hex(4)}"})
        agent = created["agent"]["id"]
        for version in range(1, DEPLOYS + 1):
            began = time.monotonic()
            requested = (await post(user, f"/v1/agents/{agent}/deploy", {}))["deployment"]
            assert requested["version"] == version
            ended = await ended_of(user, requested["id"])
            assert ended["status"] == "active", ended
            current = await get(user, f"/v1/agents/{agent}")
            assert current["agent"]["activeDeploymentId"] == requested["id"]
            took[subject].append(time.monotonic() - began)

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
