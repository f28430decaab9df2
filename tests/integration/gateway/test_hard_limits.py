"""The plan's limits with many callers, at two gateways, one of which dies, and without billing.

Two gateways and billing, real ones; the Worker is the test's own, and so is what is reported of it:
here the test stands for telemetry-ingest, and knows when a report is durable.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
from nats.js.errors import NotFoundError
from webhost_contracts import subjects, wire
from webhost_contracts.events import (
    Envelope,
    InvocationFinished,
    TelemetryAccepted,
    TierChanged,
)
from webhost_contracts.events.packets import PACKET, pack
from webhost_contracts.periods import period_key
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_contracts.usage_rpc import Counters, UsageReply, UsageRequest
from webhost_kit.bus import rpc
from webhost_kit.clock import now_ms

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually
from tests.support.facts import envelope
from tests.support.infra import Nats, Postgres
from tests.support.service import ServiceProcess
from tests.support.streams import refusing

CALLERS = 64
QUOTA = 400
TOKENS, PER_CALL = 4_000, 10
COMPUTE_MS, WALL_S = 1_500, 0.05
IN_FORCE_S = 1.0
LEASE_S = 2.0
TIERS = f"""
[free]
requests = {QUOTA}
requestsPerMinute = 1000000
telemetryDays = 1
logDays = 1

[thinking]
tokens = {TOKENS}
requestsPerMinute = 1000000
telemetryDays = 1
logDays = 1

[working]
computeMs = {COMPUTE_MS}
requestsPerMinute = 1000000
telemetryDays = 1
logDays = 1

[unlimited]
requestsPerMinute = 1000000
telemetryDays = 1
logDays = 1
"""


@dataclass
class Town:
    """Two gateways and billing."""

    harness: Harness
    billing: ServiceProcess
    tiers: Path
    gateways: list[Gateway] = field(default_factory=list)

    async def another_gateway(self) -> Gateway:
        gateway = await self.harness.start(
            WEBHOST_TIERS_FILE=str(self.tiers), LEASE_TTL_S=str(LEASE_S)
        )
        self.gateways.append(gateway)
        return gateway

    @asynccontextmanager
    async def loses_one(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """What kills the second gateway within the block; behind it there are two again."""
        dying = self.gateways[1]
        try:
            yield dying.kill
        finally:
            await dying.kill()
            self.gateways.remove(dying)
            await self.another_gateway()

    async def agent(self, tier: str | None = None) -> Agent:
        """A new user's agent, which both gateways know, with its tier."""
        agent = await self.harness.agent()
        if tier is not None:
            await self.put(agent, tier)
        marker = await self.harness.agent()
        for gateway in self.gateways:
            await self.harness.until_answers(gateway, marker)
        return agent

    async def put(self, agent: Agent, tier: str) -> None:
        request = SetTierRequest(user_id=agent.user_id, tier=tier, operator="test")
        reply = await rpc.call(self.harness.bus, subjects.RPC_SET_TIER, request, SetTierReply)
        assert reply.tier == tier, reply
        subject = subjects.event(agent.user_id, "account", agent.user_id)

        async def published() -> bool:
            try:
                last = await self.harness.bus.js.get_last_msg(subjects.EVENTS, subject)
            except NotFoundError:
                return False
            stored = wire.decode(last.data or b"", Envelope)
            return wire.decode(bytes(stored.data), TierChanged).tier == tier

        await eventually(published, "the tier to be published")

    async def report(self, call: Call, **numbers: int) -> float:
        """Put the Worker's report of this call on the stream; return when that was durable."""
        deployment = call.body["deployment"]
        fact = TelemetryAccepted(
            agent_id=deployment["agentId"],
            deployment_id=call.path.split("/")[2],
            runtime_provider="cloudflare",
            dedupe_key=f"event:{call.body['invocationId']}",
            timestamp_ms=call.body["admittedAtMs"],
            **{"requests": 1, "llm_tokens": 0, "compute_ms": 0, "errors": 0} | numbers,
        )
        user_id = deployment["userId"]
        stated = envelope(user_id, call.body["invocationId"].replace("inv", "evt"), fact)
        subject = subjects.usage_packets(subjects.partition_of(user_id), subjects.TELEMETRY_INGEST)
        body = pack([wire.encode(stated)])
        headers = {subjects.TYPE_HEADER: PACKET}
        await self.harness.bus.js.publish(subject, body, headers=headers)
        return time.time()

    async def usage(self, agent: Agent) -> Counters:
        request = UsageRequest(user_id=agent.user_id, period_key=period_key(now_ms()))
        return (await rpc.call(self.harness.bus, subjects.RPC_USAGE, request, UsageReply)).usage

    async def until_counted(self, agent: Agent, requests: int) -> Counters:
        found = Counters()

        async def counted() -> bool:
            nonlocal found
            found = await self.usage(agent)
            return found.requests >= requests

        await eventually(counted, f"{requests} calls to be counted", seconds=15)
        assert found.requests == requests
        return found

    async def refuses(self, gateway: Gateway, agent: Agent, limit_type: str) -> bool:
        status, body = await self.harness.invoke(gateway, agent)
        if status == 402:
            assert body["error"]["details"]["limitType"] == limit_type
        return status == 402


@pytest.fixture(scope="module")
async def own_town(
    postgres_server: Postgres, nats_server: Nats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Town]:
    directory = tmp_path_factory.mktemp("town")
    tiers = directory / "tiers-of-the-town.toml"
    tiers.write_text(TIERS)
    dsn, of_billing = postgres_server.create_database(), postgres_server.create_database()
    async with running_harness(dsn, nats_server.new_account(), directory) as harness:
        billing = harness.process(
            "webhost_billing", DATABASE_URL=of_billing, WEBHOST_TIERS_FILE=str(tiers)
        )
        await billing.start()
        town = Town(harness, billing, tiers)
        await town.another_gateway()
        await town.another_gateway()
        yield town


@pytest.fixture
async def town(own_town: Town) -> Town:
    """The town with all of its processes; its Worker echoes, and reports nothing."""
    if not own_town.billing.running:
        await own_town.billing.start()
    own_town.harness.worker.behaviour = echo
    return own_town


@dataclass
class Callers:
    """Many callers of one agent, each at a gateway until it dies, then at another one."""

    town: Town
    agent: Agent
    limit_type: str
    answered: set[str] = field(default_factory=set)
    other: Counter[int] = field(default_factory=Counter)

    async def run(self) -> None:
        """Call until every caller was refused."""
        async with asyncio.timeout(60):
            await asyncio.gather(*(self._call(number) for number in range(CALLERS)))

    async def _call(self, number: int) -> None:
        gateway = self.town.gateways[number % 2]
        while True:
            try:
                async with self.town.harness.post(gateway, self.agent) as response:
                    body = await response.read()
            except aiohttp.ClientError:
                gateway = self.town.gateways[0]
                continue
            if response.status == 200:
                self.answered.add(response.headers["X-Webhost-Invocation-Id"])
            elif response.status == 402:
                details = msgspec.json.decode(body)["error"]["details"]
                assert details["limitType"] == self.limit_type
                return
            else:
                self.other[response.status] += 1


async def settled(town: Town, agent: Agent, calls: int) -> dict[str, str]:
    """How each of so many calls ended, by its id, once all are stated, the dead gateway's too."""
    found: dict[str, str] = {}

    async def all_are() -> bool:
        for one in await town.harness.envelopes(agent):
            fact = wire.decode(bytes(one.data), InvocationFinished)
            assert found.setdefault(one.aggregate_id, fact.outcome) == fact.outcome
        return len(found) >= calls

    await eventually(all_are, f"{calls} calls to be stated", seconds=20)
    assert len(found) == calls
    return found


@pytest.mark.accept("8.hard-limit")
async def test_exactly_the_quota_is_called_whichever_gateway_dies(town: Town) -> None:
    """All but those under way in the gateway that is killed are answered."""
    agent = await town.agent()
    reached: list[str] = []
    half = asyncio.Event()

    async def worker(call: Call) -> None:
        reached.append(call.body["invocationId"])
        if len(reached) == QUOTA // 2:
            half.set()
        await asyncio.sleep(0.02)
        await echo(call)

    town.harness.worker.behaviour = worker
    callers = Callers(town, agent, "requests")
    async with town.loses_one() as kill, asyncio.TaskGroup() as group:
        group.create_task(callers.run())
        await half.wait()
        await kill()
    assert len(set(reached)) == len(reached) <= QUOTA

    outcomes = await settled(town, agent, QUOTA)
    assert callers.answered <= set(reached) <= outcomes.keys()
    under_way = outcomes.keys() - callers.answered
    assert {outcomes[one] for one in under_way} == {"unknown"}
    assert 0 < len(under_way) <= CALLERS // 2
    assert len(callers.answered) == QUOTA - len(under_way)
    await town.until_counted(agent, QUOTA)
    for gateway in town.gateways:
        assert await town.refuses(gateway, agent, "requests")
    assert len(reached) <= QUOTA


@pytest.mark.accept("7.budgets")
@pytest.mark.accept("8.budgets")
async def test_no_call_is_admitted_a_second_behind_the_budget_whichever_gateway_dies(
    town: Town,
) -> None:
    """From the moment at which the report that passes the budget is durable."""
    agent = await town.agent("thinking")
    admitted: list[int] = []
    reported: list[float] = []
    half = asyncio.Event()

    async def worker(call: Call) -> None:
        admitted.append(call.body["admittedAtMs"])
        reported.append(await town.report(call, llm_tokens=PER_CALL))
        if len(reported) == TOKENS // PER_CALL // 2:
            half.set()
        await echo(call)

    town.harness.worker.behaviour = worker
    callers = Callers(town, agent, "tokens")
    async with town.loses_one() as kill, asyncio.TaskGroup() as group:
        group.create_task(callers.run())
        await half.wait()
        await kill()
    passed_ms = 1000 * sorted(reported)[TOKENS // PER_CALL - 1]
    late_ms = max(admitted) - passed_ms
    print(f"{len(reported)} calls; the last one {late_ms:.0f} ms behind the budget")
    assert late_ms <= 1000 * IN_FORCE_S
    for gateway in town.gateways:
        assert await town.refuses(gateway, agent, "tokens")


@pytest.mark.accept("8.no-telemetry")
@pytest.mark.parametrize("reports", ["nothing", "zeros"])
async def test_an_agent_that_reports_nothing_or_zeros_is_limited(town: Town, reports: str) -> None:
    """What its calls took is the gateways' own measure, and so is their number."""
    agent = await town.agent("working")
    calls: list[str] = []

    async def worker(call: Call) -> None:
        calls.append(call.body["invocationId"])
        await asyncio.sleep(WALL_S)
        if reports == "zeros":
            await town.report(call, requests=0)
        await echo(call)

    town.harness.worker.behaviour = worker
    await Callers(town, agent, "computeMs").run()
    used = await town.until_counted(agent, len(calls))
    assert used.compute_ms >= COMPUTE_MS
    assert used.llm_tokens == 0


@pytest.mark.accept("8.budgets")
async def test_a_budget_holds_without_billing_and_is_lifted_within_a_second(town: Town) -> None:
    spent, thrifty = await town.agent("thinking"), await town.agent("thinking")

    calls: list[str] = []

    async def worker(call: Call) -> None:
        calls.append(call.body["deployment"]["userId"])
        await town.report(call, llm_tokens=TOKENS)
        await echo(call)

    town.harness.worker.behaviour = worker
    assert (await town.harness.invoke(town.gateways[0], spent))[0] == 200
    async with asyncio.timeout(IN_FORCE_S):
        for gateway in town.gateways:
            await until_refused(town, gateway, spent)

    await town.billing.kill()
    restarted = await town.another_gateway()
    for gateway in town.gateways:
        assert await town.refuses(gateway, spent, "tokens")
    # Nobody counts what this one uses now: what was counted of it holds.
    for gateway in town.gateways:
        assert (await town.harness.invoke(gateway, thrifty))[0] == 200
    await town.billing.start()
    for gateway in town.gateways:
        await until_refused(town, gateway, thrifty)
    await town.until_counted(thrifty, calls.count(thrifty.user_id))

    for user in (spent, thrifty):
        async with asyncio.timeout(IN_FORCE_S):
            await town.put(user, "unlimited")
            for gateway in town.gateways:
                await town.harness.until_answers(gateway, user)
    town.gateways.remove(restarted)
    assert await restarted.stop() == 0


async def until_refused(town: Town, gateway: Gateway, agent: Agent) -> None:
    async def refused() -> bool:
        return await town.refuses(gateway, agent, "tokens")

    await eventually(refused, "the budget to be in force")


@pytest.mark.accept("8.claimed")
async def test_a_call_whose_fact_was_not_stored_counts_once_when_it_is(town: Town) -> None:
    """The stream refuses what the gateway publishes from its outbox, and takes it later."""
    agent = await town.agent("unlimited")
    async with refusing(town.harness.bus, subjects.USAGE):
        assert (await town.harness.invoke(town.gateways[0], agent))[0] == 200

        async def refused() -> bool:
            said = await town.gateways[0].complaints()
            return "not acknowledged" in said.get("relay", "")

        await eventually(refused, "the relay to be refused")
        assert await town.usage(agent) == Counters()
    await town.until_counted(agent, 1)
    await town.harness.until_answers(town.gateways[0], agent)
    await town.until_counted(agent, 2)
