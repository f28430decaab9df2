"""Idempotency keys at several gateways at once, and through their deaths."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.test_idempotency import Answer, call, claims
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres

LEASE_S = "2"
CALLERS = 50
KEYS = 4
ANSWERED_S = 30
"""Longer than a dead gateway's lease, and another lease's time to be sure of it."""

NEVER_RUN = ("gateway.claiming",)
UNKNOWN = ("gateway.admitted", "gateway.answered", "gateway.written")
KNOWN = ("gateway.recorded",)
"""Where the gateway dies, by what a repeat then meets."""


async def answered(harness: Harness, gateway: Gateway, agent: Agent, key: str) -> Answer:
    """The first answer that is no conflict which passes."""
    async with asyncio.timeout(ANSWERED_S):
        answer = await call(harness, gateway, agent, key)
        while answer.status == 409 and answer.error["retryable"]:
            assert answer.reason == "running"
            await asyncio.sleep(0.1)
            answer = await call(harness, gateway, agent, key)
        return answer


@pytest.fixture(scope="module")
async def two_gateways(
    postgres_server: Postgres, nats_server: Nats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness whose gateways' leases are short."""
    dsn = postgres_server.create_database()
    directory = tmp_path_factory.mktemp("gateways")
    async with running_harness(dsn, nats_server.new_account(), directory) as harness:
        for _ in range(2):
            await harness.start(LEASE_TTL_S=LEASE_S)
        yield harness
    postgres_server.drop_database(dsn)


@pytest.mark.accept("7.7.once")
async def test_of_fifty_calls_with_one_key_at_two_gateways_one_runs(two_gateways: Harness) -> None:
    harness = two_gateways
    gateways = harness.gateways[:2]
    agent = await harness.agent()
    for gateway in gateways:
        await harness.until_answers(gateway, agent)
    before = len(await harness.until_facts(agent, 2))
    harness.worker.calls.clear()
    answers = await asyncio.gather(
        *(
            answered(harness, gateways[number % 2], agent, f"k{number % KEYS}")
            for number in range(CALLERS * KEYS)
        )
    )
    ids = Counter(answer.invocation_id for answer in answers)
    assert Counter(answer.status for answer in answers) == {200: CALLERS * KEYS}
    assert sorted(ids.values()) == [CALLERS] * KEYS
    assert len({answer.body for answer in answers}) == KEYS
    assert {call.body["invocationId"] for call in harness.worker.calls} == set(ids)
    assert len(harness.worker.calls) == KEYS
    facts = await harness.until_facts(agent, before + KEYS)
    assert len(facts) == before + KEYS
    [quota] = await harness.rows("SELECT * FROM quotas WHERE user_id = :u", u=agent.user_id)
    assert (quota["requests"], quota["in_flight"]) == (before + KEYS, 0)
    print(f"{CALLERS * KEYS} calls with {KEYS} keys: {len(harness.worker.calls)} ran")


@pytest.mark.accept("7.7.kills")
@pytest.mark.timeout(300)
async def test_a_killed_gateways_call_is_never_run_again(two_gateways: Harness) -> None:
    """Killed before its claim, and at each step after it, until the outcome is on record."""
    harness = two_gateways
    points = (*NEVER_RUN, *UNKNOWN, *KNOWN)
    survivor = harness.gateways[0]
    agent = await harness.agent()
    await harness.until_answers(survivor, agent)
    dying = [await harness.start(LEASE_TTL_S=LEASE_S) for _ in points]
    for gateway in dying:
        await harness.until_answers(gateway, agent)
    facts = len(await harness.until_facts(agent, 1 + len(points)))
    harness.worker.calls.clear()

    async def die(gateway: Gateway, point: str) -> bytes | None:
        """What its caller got before it died there."""
        gateway.crash_file.write_text(point)
        try:
            return (await call(harness, gateway, agent, point)).body
        except (aiohttp.ClientError, OSError):
            return None
        finally:
            await gateway.died()

    got = dict(zip(points, await asyncio.gather(*map(die, dying, points)), strict=True))
    assert {point for point in points if got[point] is not None} <= {"gateway.written", *KNOWN}
    ran = Counter(c.body["invocationId"] for c in harness.worker.calls)
    claimed = {row["key"]: row["invocation_id"] for row in await claims(harness, agent)}
    assert set(claimed) == {*UNKNOWN, *KNOWN}

    for point in UNKNOWN:
        answer = await answered(harness, survivor, agent, point)
        assert answer.reason == "outcome_unknown"
        assert answer.invocation_id == claimed[point]
    for point in KNOWN:
        answer = await answered(harness, survivor, agent, point)
        assert (answer.status, answer.invocation_id) == (200, claimed[point])
        assert got[point] in (None, answer.body)
    assert Counter(c.body["invocationId"] for c in harness.worker.calls) == ran
    assert set(ran.values()) == {1}
    for point in NEVER_RUN:
        answer = await answered(harness, survivor, agent, point)
        assert answer.status == 200
    assert len(harness.worker.calls) == len(ran) + len(NEVER_RUN)
    expected = facts + len(points)
    assert len(await harness.until_facts(agent, expected)) == expected

    async def nothing_runs() -> bool:
        [quota] = await harness.rows("SELECT * FROM quotas WHERE user_id = :u", u=agent.user_id)
        return (quota["requests"], quota["in_flight"]) == (expected, 0)

    await eventually(nothing_runs, "each call to be counted once")
    print(f"{len(points)} deaths: {', '.join(points)}")
