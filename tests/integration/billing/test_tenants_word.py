"""What a tenant reports about itself is worth no more than it is, and holds up nobody else."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from webhost_contracts import ids, subjects, wire
from webhost_contracts.usage_rpc import (
    Counters,
    SilentAgent,
    SilentAgentsReply,
    SilentAgentsRequest,
)
from webhost_kit.bus import rpc
from webhost_kit.bus.packets import in_packets
from webhost_kit.bus.publishing import publish
from webhost_kit.clock import now_ms

from tests.integration.billing.conftest import AT_MS, Billing, call, telemetry
from tests.integration.billing.test_usage import (
    PICO_PER_MS,
    PICO_PER_REQUEST,
    until_totals,
)
from tests.support.deadline import eventually
from tests.support.harness import running
from tests.support.infra import Nats, Postgres

MOST = 1_000_000_000
"""The largest counter that ingest accepts."""
ZEROS: dict[str, Any] = {
    **dict.fromkeys(("requests", "llm_tokens", "compute_ms", "errors", "tool_calls"), 0)
}
ABSURD: dict[str, Any] = dict.fromkeys(ZEROS, MOST)
WALL_MS, QUARTER_MS = 100, 25
NOBODY_WAITS_S = 5.0
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
async def billing(
    postgres_server: Postgres, nats_server: Nats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Billing]:
    """One for all tests here: each has users of its own."""
    dsn, url = postgres_server.create_database(), nats_server.new_account()
    directory = tmp_path_factory.mktemp("billing")
    async with running(Billing, dsn, url, directory=directory) as harness:
        await harness.service.start()
        yield harness


def user(name: str) -> str:
    return ids.user_id("tenants", name)


def neighbour(of: str, *, same: bool) -> str:
    """Another user, whose usage is in the same partition or in another one."""
    partition = subjects.partition_of(of)
    return next(
        one
        for number in range(1_000)
        if (subjects.partition_of(one := user(f"{number} of {of}")) == partition) == same
    )


@pytest.mark.accept("8.tenants-word")
@pytest.mark.parametrize(
    ("first", "tokens", "compute_ms"),
    [(ZEROS, 0, QUARTER_MS), (ABSURD, MOST, WALL_MS + 1_000)],
    ids=["zeros", "absurd"],
)
@pytest.mark.parametrize("gateway", ["before", "between", "behind"])
async def test_the_first_report_stands_and_compute_is_held_against_the_wall_time(
    billing: Billing, first: dict[str, Any], tokens: int, compute_ms: int, gateway: str
) -> None:
    """Zeros or absurd numbers first, then the truth; a call is one request whatever is said."""
    tenant = user(f"{tokens} {gateway}")
    of_gateway = call(tenant, 1, wall_ms=WALL_MS)
    reports = [telemetry(tenant, 1, **first), telemetry(tenant, 1)]
    reports.insert({"before": 0, "between": 1, "behind": 2}[gateway], of_gateway)
    for report in reports:
        await billing.given_usage(report)
    await billing.caught_up()
    assert (await billing.usage(tenant)).usage == Counters(
        requests=1,
        llm_tokens=tokens,
        compute_ms=compute_ms,
        tool_calls=first["tool_calls"],
        cost_picodollars=PICO_PER_REQUEST + compute_ms * PICO_PER_MS,
    )


@pytest.mark.accept("8.tenants-word")
async def test_reports_of_calls_that_never_were_count_for_their_tenant_alone(
    billing: Billing,
) -> None:
    tenant, other = user("inventive"), user("honest")
    await billing.given_folded(
        call(other, 1),
        *(telemetry(tenant, number, **ABSURD) for number in range(20)),
        # The ids of another's calls are no key to them.
        telemetry(tenant, 1, dedupe_key="event:inv_1", deployment_id=f"dep_{other}"),
        telemetry(other, 1),
    )
    honest = (await billing.usage(other)).usage
    assert (honest.requests, honest.llm_tokens, honest.compute_ms) == (1, 10, 40)
    said = (await billing.usage(tenant)).usage
    assert (said.requests, said.llm_tokens) == (20 * MOST + 1, 20 * MOST + 10)
    assert said.compute_ms == 20 * MOST + 40
    # What a gateway raises a quota to knows of calls, not of what is said of them.
    totals = await until_totals(billing, tenant, said.llm_tokens, said.compute_ms)
    assert totals.requests == 21


async def silent_agents(billing: Billing, **request: int) -> SilentAgentsReply:
    asked = SilentAgentsRequest(**request)
    return await rpc.call(billing.bus, subjects.RPC_SILENT_AGENTS, asked, SilentAgentsReply)


@pytest.mark.accept("8.silent")
async def test_agents_whose_calls_are_not_reported_are_listed(
    database_url: str, nats_account: str, tmp_path: Any
) -> None:
    """The highest share first. Reports without a call, old calls and those of now are left out."""
    mute, shy, fine, rare = (user(name) for name in ("mute", "shy", "fine", "rare"))
    days_ago_ms = now_ms() - 100 * HOUR_MS
    hour_ago = {"admitted_at_ms": AT_MS - HOUR_MS}
    told = {"timestamp_ms": AT_MS - HOUR_MS}
    usage = [
        *(call(mute, n, agent_id="agt_mute", **hour_ago) for n in range(12)),
        *(call(shy, n, agent_id="agt_shy", **hour_ago) for n in range(20)),
        *(telemetry(shy, n, agent_id="agt_shy", **told) for n in range(5)),
        *(call(fine, n, agent_id="agt_fine", **hour_ago) for n in range(20)),
        *(telemetry(fine, n, agent_id="agt_fine", **told) for n in range(25)),
        *(call(rare, n, agent_id="agt_rare", **hour_ago) for n in range(3)),
        *(call(rare, 10 + n, agent_id="agt_old", admitted_at_ms=days_ago_ms) for n in range(30)),
        *(call(rare, 50 + n, agent_id="agt_now", admitted_at_ms=now_ms()) for n in range(30)),
    ]
    async with running(Billing, database_url, nats_account, directory=tmp_path) as billing:
        await billing.service.start()
        await billing.given_folded(*usage)
        found = await silent_agents(billing)
        assert (found.invocations, found.silent) == (55, 12 + 15 + 3)
        assert found.agents == (
            SilentAgent(user_id=mute, agent_id="agt_mute", invocations=12, silent=12),
            SilentAgent(user_id=shy, agent_id="agt_shy", invocations=20, silent=15),
        )
        assert (await silent_agents(billing, limit=1)).agents == found.agents[:1]
        everyone = [agent.agent_id for agent in (await silent_agents(billing, at_least=1)).agents]
        assert everyone == ["agt_mute", "agt_rare", "agt_shy"]
        for command, says in (
            (["silent"], "30 of 55 calls were not reported (54.5 %)"),
            (["silent", "--json", "--hours", "2"], '"agentId": "agt_mute"'),
        ):
            assert says in await asyncio.to_thread(webhost, nats_account, *command)
        metrics = await numbers(billing)
        assert metrics["webhost_billing_invocations_total"] == 115
        assert metrics["webhost_billing_invocations_complete_total"] == 25


def webhost(url: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "webhost_cli", "billing", *arguments],
        env={**os.environ, "NATS_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    if "--json" in arguments:
        json.loads(ended.stdout)
    return ended.stdout


async def numbers(billing: Billing) -> dict[str, float]:
    """What /metrics says, of metrics without labels."""
    async with billing.http.get(f"{billing.service.ops_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs if "{" not in name}


@dataclass
class Neighbours:
    """Others whose usage comes while one tenant makes trouble: how long each call waits."""

    billing: Billing
    users: Sequence[str]
    longest_s: float = 0.0
    calls: int = 0

    async def live(self, until: asyncio.Event) -> None:
        """Make one call after the other, each once the one before is counted."""
        while not until.is_set() or not self.calls:
            await asyncio.gather(*(self._one(user) for user in self.users))
            self.calls += 1

    async def _one(self, user_id: str) -> None:
        began = time.monotonic()
        await self.billing.given_usage(call(user_id, 1_000_000 + self.calls))

        async def counted() -> bool:
            return await self.billing.scalar(_REQUESTS, user=user_id) == self.calls + 1

        await eventually(counted, "a neighbour's call to be counted", seconds=NOBODY_WAITS_S)
        self.longest_s = max(self.longest_s, time.monotonic() - began)


_REQUESTS = (
    "SELECT sum(requests) FROM billing_usage WHERE user_id = :user"
    " AND generation = (SELECT live FROM generations)"
)


async def beside(billing: Billing, tenant: str, trouble: Any, users: Sequence[str]) -> Neighbours:
    """Let the neighbours live while `trouble` goes on, and until it has been folded."""
    neighbours, ended = Neighbours(billing, users), asyncio.Event()

    async def make_trouble() -> None:
        try:
            await trouble
            await billing.caught_up(seconds=600)
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(make_trouble())
        group.create_task(neighbours.live(ended))
    print(
        f"{neighbours.calls} calls of each neighbour, {neighbours.longest_s:.2f} s at the longest"
    )
    return neighbours


@pytest.mark.accept("8.neighbours")
async def test_absurd_numbers_delay_nobody(billing: Billing) -> None:
    tenant = user("absurd")
    reports = [telemetry(tenant, number, **ABSURD) for number in range(2_000)]
    others = [neighbour(tenant, same=same) for same in (True, False)]
    await beside(billing, tenant, billing.given_usage(*reports), others)
    assert (await billing.usage(tenant)).usage.llm_tokens == 2_000 * MOST


@pytest.mark.accept("8.neighbours")
async def test_parked_events_delay_nobody(billing: Billing) -> None:
    """Events that no table can hold, between good ones of the same tenant."""
    tenant = user("unusable")
    reports = [
        telemetry(tenant, number, llm_tokens=2**63 if number % 8 == 0 else 1)
        for number in range(160)
    ]
    others = [neighbour(tenant, same=same) for same in (True, False)]
    await beside(billing, tenant, billing.given_usage(*reports), others)
    assert (await billing.usage(tenant)).usage.llm_tokens == 140
    parked = "SELECT count(*) FROM parked_events"
    assert await billing.scalar(parked) == 20


async def burst(billing: Billing, tenant: str, events: int, per_s: int | None) -> None:
    """Publish so many reports of one tenant, in packets; where no pace is given, at full speed."""
    subject, one = telemetry(tenant, 1, dedupe_key="event:NUMBER")
    before, _, behind = wire.encode(one).partition(b"NUMBER")
    began = time.monotonic()
    for start in range(0, events, 1_000):
        numbers = range(start, min(start + 1_000, events))
        facts = [(n, subject, b"%b%d%b" % (before, n, behind)) for n in numbers]
        for packet in in_packets(facts):
            await publish(billing.bus, packet.message())
        if per_s is not None:
            await asyncio.sleep(began + numbers.stop / per_s - time.monotonic())


LONG = (pytest.mark.long, pytest.mark.quiet, pytest.mark.timeout(900))
FOLDED_PER_S = 2_500
"""What one partition is promised to fold: its facts are folded in order, so whoever shares it with
a tenant that reports more waits with that tenant."""


@pytest.mark.accept("8.neighbours")
@pytest.mark.parametrize(
    ("events", "per_s", "same"),
    [
        pytest.param(5_000, None, True, id="5,000 at once"),
        pytest.param(1_000_000, None, False, id="a million at once", marks=LONG),
        pytest.param(300_000, FOLDED_PER_S, True, id="all that is promised", marks=LONG),
    ],
)
async def test_a_burst_delays_nobody(
    billing: Billing, events: int, per_s: int | None, same: bool
) -> None:
    """Whoever is in another partition is not even behind it; `same`: neighbours in the same one."""
    tenant = user(f"burst of {events}, {per_s}")
    others = [neighbour(tenant, same=False), *([neighbour(tenant, same=True)] if same else [])]
    await beside(billing, tenant, burst(billing, tenant, events, per_s), others)
    assert (await billing.usage(tenant)).usage.requests == events
