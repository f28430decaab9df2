"""The limits are exact, and every admitted call is stated once, whoever dies when."""

import asyncio
import signal
from collections import Counter
from contextlib import suppress

import aiohttp
import pytest
from webhost_contracts.events import TierChanged

from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually


async def at_once(
    harness: Harness, gateways: list[Gateway], agent: Agent, number: int
) -> Counter[str]:
    """Invoke with this many callers at once; count the answers by code or limit."""
    calls = [harness.invoke(gateways[i % len(gateways)], agent) for i in range(number)]
    answers: Counter[str] = Counter()
    for status, body in await asyncio.gather(*calls):
        error = body.get("error", {})
        answers[str(error["details"].get("limitType", error["code"]) if error else status)] += 1
    return answers


async def quota(harness: Harness, agent: Agent) -> tuple[int, int]:
    rows = await harness.rows("SELECT * FROM quotas WHERE user_id = :user", user=agent.user_id)
    return (sum(row["requests"] for row in rows), sum(row["in_flight"] for row in rows))


async def until_quota(harness: Harness, agent: Agent, requests: int, in_flight: int) -> None:
    async def there() -> bool:
        return await quota(harness, agent) == (requests, in_flight)

    await eventually(there, f"{requests} requests, {in_flight} in flight", seconds=15)


async def knows_tier(harness: Harness, gateway: Gateway, agent: Agent, tier: str) -> None:
    """Wait until the gateway has folded everything published before."""
    marker = await harness.agent()
    await harness.until_answers(gateway, marker)


@pytest.mark.accept("8.hard-limit")
async def test_exactly_the_plans_requests_reach_the_worker(own_harness: Harness) -> None:
    """200 callers at two gateways, a plan of 20: 20 calls, 180 refusals, 20 facts."""
    harness = own_harness
    gateways = list(await asyncio.gather(harness.start(), harness.start()))
    agent = await harness.agent("small")
    for gateway in gateways:
        await knows_tier(harness, gateway, agent, "small")
    harness.worker.calls.clear()
    answers = await at_once(harness, gateways, agent, 200)
    assert answers == {"200": 20, "requests": 180}
    assert len(harness.worker.calls) == 20
    await harness.until_facts(agent, 20)
    await until_quota(harness, agent, 20, 0)
    _, body = await harness.invoke(gateways[0], agent)
    details = body["error"]["details"]
    assert (details["current"], details["limit"]) == (20, 20)
    assert details["suggestedAction"] == "upgrade"

    # A higher plan is in force without a restart, and what was used stays used.
    await harness.tell(agent, TierChanged(tier="narrow", previous_tier="small", source="test"))
    await harness.until_answers(gateways[0], agent)
    assert len(await harness.until_facts(agent, 21)) == 21
    ids = [envelope.aggregate_id for envelope in await harness.envelopes(agent)]
    assert len(set(ids)) == len(ids)
    for gateway in gateways:
        assert await gateway.stop() == 0
    assert await harness.rows("SELECT * FROM leases") == []
    assert await harness.rows("SELECT * FROM usage_outbox") == []


async def test_no_more_calls_at_once_than_the_plan_has(own_harness: Harness) -> None:
    harness = own_harness
    gateways = list(await asyncio.gather(harness.start(), harness.start()))
    agent = await harness.agent("narrow")
    for gateway in gateways:
        await knows_tier(harness, gateway, agent, "narrow")
    go_on = asyncio.Event()

    async def held(call: Call) -> None:
        await go_on.wait()
        await echo(call)

    harness.worker.behaviour = held
    harness.worker.calls.clear()
    calls = [
        asyncio.create_task(harness.invoke(gateways[number % 2], agent)) for number in range(30)
    ]
    refusals = []
    try:
        async with asyncio.timeout(15):
            for call in asyncio.as_completed(calls):
                refusals.append(await call)
                if len(refusals) == 27:
                    break
    finally:
        go_on.set()
    for status, body in refusals:
        details = body["error"]["details"]
        assert (status, details["limitType"]) == (402, "concurrency")
        assert (details["current"], details["limit"]) == (3, 3)
    answers = Counter(status for status, _ in await asyncio.gather(*calls))
    assert answers == {402: 27, 200: 3}
    assert len(harness.worker.calls) == 3
    await until_quota(harness, agent, 3, 0)
    assert await at_once(harness, gateways, agent, 3) == {"200": 3}


@pytest.mark.parametrize(
    ("point", "reached"), [("gateway.admitted", 0), ("gateway.answered", 1), ("relay.published", 1)]
)
async def test_a_call_under_a_dead_gateway_counts_once(
    own_harness: Harness, point: str, reached: int
) -> None:
    """A gateway dies at a named point; its call is stated once, by whoever is there."""
    harness = own_harness
    dying, other = await asyncio.gather(*(harness.start(LEASE_TTL_S="2") for _ in range(2)))
    agent = await harness.agent("narrow")
    await knows_tier(harness, dying, agent, "narrow")
    await knows_tier(harness, other, agent, "narrow")
    harness.worker.calls.clear()
    await until_quota(harness, agent, 0, 0)
    await until_published(harness)
    for gateway in (dying, other) if point == "relay.published" else (dying,):
        gateway.crash_file.write_text(point)
    with suppress(aiohttp.ClientError):
        await harness.invoke(dying, agent)
    dead = dying
    if point == "relay.published":
        # The relay is either gateway's.
        dead = await the_dead_one(dying, other)
    async with asyncio.timeout(10):
        assert await dead.died() == -9
    survivor = other if dead is dying else dying
    survivor.crash_file.unlink(missing_ok=True)
    assert len(harness.worker.calls) == reached
    facts = await harness.until_facts(agent, 1)
    if point == "relay.published":
        assert {fact.outcome for fact in facts} == {"succeeded"}
    else:
        assert [(f.outcome, f.errors, f.wall_ms) for f in facts] == [("unknown", 0, None)]
    await until_quota(harness, agent, 1, 0)
    await harness.until_answers(survivor, agent)
    await until_quota(harness, agent, 2, 0)
    await harness.until_facts(agent, 2)
    assert len({envelope.event_id for envelope in await harness.envelopes(agent)}) == 2


async def until_published(harness: Harness) -> None:
    """Wait until every call so far is recorded and stated."""

    async def nothing_waits() -> bool:
        open_calls = await harness.rows("SELECT * FROM invocations WHERE finished_at_ms IS NULL")
        return open_calls == [] and await harness.rows("SELECT * FROM usage_outbox LIMIT 1") == []

    await eventually(nothing_waits, "all outcomes to be stated")


async def the_dead_one(*gateways: Gateway) -> Gateway:
    dead: list[Gateway] = []

    async def one_is() -> bool:
        dead.extend(g for g in gateways if not g.running)
        return bool(dead)

    await eventually(one_is, "one of the gateways to die")
    return dead[0]


async def test_a_restarted_gateway_finds_its_routes_and_quotas(own_harness: Harness) -> None:
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent("small")
    await harness.until_answers(gateway, agent)
    await harness.until_facts(agent, 1)
    await gateway.kill()
    gateway = await harness.start()
    assert await at_once(harness, [gateway], agent, 30) == {"200": 19, "requests": 11}


async def test_a_gateway_that_lost_its_lease_admits_under_a_new_one(own_harness: Harness) -> None:
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)
    before = await harness.scalar("SELECT gateway_id FROM leases")
    await harness.execute("DELETE FROM leases")
    status, body = await harness.invoke(gateway, agent)
    assert (status, body["error"]["code"]) == (503, "UNAVAILABLE")
    await harness.until_answers(gateway, agent)
    after = await harness.scalar("SELECT gateway_id FROM leases")
    assert before != after
    await until_quota(harness, agent, 2, 0)


async def test_a_caller_at_its_limit_goes_on_when_a_call_has_ended(own_harness: Harness) -> None:
    """Three callers, each one call after the other, never run into a limit of three."""
    harness = own_harness
    gateway = await harness.start()
    agent = await harness.agent("narrow")
    await harness.until_answers(gateway, agent)

    async def one_after_the_other() -> list[int]:
        return [(await harness.invoke(gateway, agent))[0] for _ in range(20)]

    answers = await asyncio.gather(*(one_after_the_other() for _ in range(3)))
    assert answers == [[200] * 20] * 3


async def test_a_call_that_outlives_its_gateways_lease_counts_once(own_harness: Harness) -> None:
    """Another gateway finishes a frozen one's call; its own outcome then changes nothing."""
    harness = own_harness
    other = await harness.start(LEASE_TTL_S="2")  # the first one relays
    frozen = await harness.start(LEASE_TTL_S="2")
    agent = await harness.agent("narrow")
    await knows_tier(harness, other, agent, "narrow")
    await knows_tier(harness, frozen, agent, "narrow")
    arrived, thawed = asyncio.Event(), asyncio.Event()

    async def behave(call: Call) -> None:
        arrived.set()
        await thawed.wait()
        await echo(call)

    harness.worker.behaviour = behave
    call = asyncio.create_task(harness.invoke(frozen, agent))
    await arrived.wait()
    frozen.send_signal(signal.SIGSTOP)
    assert [fact.outcome for fact in await harness.until_facts(agent, 1)] == ["unknown"]
    await until_quota(harness, agent, 1, 0)

    thawed.set()
    frozen.send_signal(signal.SIGCONT)
    assert (await call)[0] == 200
    await harness.until_answers(frozen, agent)
    facts = await harness.until_facts(agent, 2)
    assert [fact.outcome for fact in facts] == ["unknown", "succeeded"]
    await until_quota(harness, agent, 2, 0)


@pytest.mark.accept("A9")
async def test_a_gateway_removes_what_is_old_by_itself(own_harness: Harness) -> None:
    gateway = await own_harness.start()
    await own_harness.execute("INSERT INTO quotas (user_id, period_key) VALUES ('u', '2020-01')")
    await gateway.kill()
    await gateway.start()
    await own_harness.until_scalar("SELECT count(*) FROM quotas", 0, "the old quota to be gone")
