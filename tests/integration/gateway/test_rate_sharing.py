"""Two gateways grant a user's rate once, and a user on one of them is not held to half of it."""

import asyncio
import secrets
from dataclasses import replace
from time import monotonic

import pytest
from webhost_contracts import ids
from webhost_contracts.events import TierChanged
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.support.deadline import eventually

LIMIT = 600  # of the tier `paced`
PER_S = LIMIT / 60
TTL_S = 2
PAUSE_S = 0.004


async def a_user(harness: Harness) -> Agent:
    """A user of the tier `paced` without agents: a call within the rate is answered with 404."""
    subject = secrets.token_hex(8)
    user = Agent(
        user_id=ids.user_id(harness.issuer.url, subject),
        agent_id=new_id(ids.AGENT, now_ms()),
        deployment_id="",
        token=harness.issuer.token(subject),
    )
    await harness.tell(user, TierChanged(tier="paced", previous_tier="free", source="test"))
    return user


async def flood(harness: Harness, user: Agent, seconds: float, *gateways: Gateway) -> int:
    """Call these gateways far above the rate; return how many calls were let through."""
    granted = 0
    until = monotonic() + seconds

    async def caller(gateway: Gateway) -> None:
        nonlocal granted
        while monotonic() < until:
            async with harness.post(gateway, user) as response:
                assert response.status in (404, 429)
                granted += response.status == 404
                if response.status == 429:
                    assert response.headers["RateLimit-Policy"] == f'"user";q={LIMIT};w=60'
                    await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(caller(gateway) for gateway in gateways for _ in range(2)))
    return granted


async def until_sharing(harness: Harness) -> None:
    """Return when both gateways have renewed while both leases were live."""
    both = await harness.scalar("SELECT clock_timestamp() FROM leases HAVING count(*) = 2")
    assert both is not None
    await eventually(
        lambda: _renewed_since(harness, both), "both gateways to renew their leases", seconds=10
    )


async def _renewed_since(harness: Harness, at: object) -> bool:
    query = f"SELECT min(expires_at) - interval '{TTL_S} seconds' > :at FROM leases"
    return await harness.scalar(query, at=at)


@pytest.mark.long
@pytest.mark.accept("6.C1", "2.rate-limit")
async def test_two_gateways_together_grant_a_rate_once(own_harness: Harness) -> None:
    harness = own_harness
    first = await harness.start(LEASE_TTL_S=str(TTL_S))
    second = await harness.start(LEASE_TTL_S=str(TTL_S))
    user = await a_user(harness)
    await harness.until_answers(first, user, 404)
    await harness.until_answers(second, user, 404)
    await until_sharing(harness)

    began = monotonic()
    granted = await flood(harness, user, 8, first, second)
    seconds = monotonic() - began
    print(f"{granted} of {LIMIT + PER_S * seconds:.0f} granted by two in {seconds:.1f} s")
    assert 0.9 * (LIMIT + PER_S * seconds) - 20 <= granted <= LIMIT + PER_S * seconds + 10

    await flood(harness, user, 3, first)  # until the other's part has come over
    began = monotonic()
    granted = await flood(harness, user, 6, first)
    seconds = monotonic() - began
    print(f"{granted / (PER_S * seconds):.0%} of the rate at one")
    assert 0.7 * PER_S * seconds <= granted <= PER_S * seconds + 1

    # The other one's end leaves it all.
    await second.stop()
    await flood(harness, user, 2, first)
    began = monotonic()
    granted = await flood(harness, user, 4, first)
    seconds = monotonic() - began
    assert 0.9 * PER_S * seconds <= granted <= PER_S * seconds + 1


@pytest.mark.accept("6.C1")
async def test_an_agents_rate_is_its_owners_alone(own_harness: Harness) -> None:
    harness, limit = own_harness, 5
    gateway = await harness.start(AGENT_REQUESTS_PER_MINUTE=str(limit))
    agent, stranger = await harness.agent(), await harness.agent()

    async def call(user: Agent) -> tuple[int, str]:
        async with harness.post(gateway, replace(user, agent_id=agent.agent_id)) as response:
            return response.status, response.headers.get("RateLimit-Policy", "")

    await harness.until_answers(gateway, stranger)
    for _ in range(2 * limit):
        assert (await call(stranger))[0] == 404
    statuses = [await call(agent) for _ in range(2 * limit)]
    allowed = [status for status, _ in statuses if status != 429]
    assert len(allowed) == limit
    assert statuses[-1] == (429, f'"agent";q={limit};w=60')
    status, _ = await harness.invoke(gateway, stranger)
    assert status == 200
