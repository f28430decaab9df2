"""Refused delegated calls: which are stated for the user's audit, and that nobody floods it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import AgentDisabled, DelegationRefused, Envelope
from webhost_gateway.refusals import PER_MINUTE

from tests.integration.gateway.conftest import running_harness
from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.test_delegated import (
    OTHERS,
    SECRETS,
    body_for,
    ready_agent,
    send,
    signed,
)
from tests.integration.gateway.test_idempotency import until_recorded
from tests.integration.gateway.worker import Call, echo
from tests.support import facts
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres, running_nats

SOON_S = 1.0
"""Much less than a publish waits for its answer."""


@pytest.fixture
async def gateway(harness: Harness) -> AsyncIterator[Gateway]:
    """A gateway that knows back ends, its allowances not used yet."""
    gateway = await harness.start(DELEGATION_SECRETS=SECRETS)
    yield gateway
    await gateway.stop()


async def refused(
    harness: Harness, gateway: Gateway, agent_id: str, body: bytes, source: str = "desk"
) -> tuple[int, str]:
    """Send a call that is refused; return how, with the same request id each time."""
    secret = {"secret": OTHERS} if source == "shop" else {}
    headers = signed(body, source=source, **secret) | {"X-Request-Id": "req-refused"}
    answer = await send(harness, gateway, agent_id, body, headers)
    assert answer.status >= 400
    return answer.status, answer.error["code"]


async def stated(harness: Harness, user_id: str) -> list[Envelope]:
    return await facts.stored(harness.bus, subjects.EVENTS, f"evt.{user_id}.delegation.*")


async def until_stated(harness: Harness, user_id: str, number: int) -> list[Envelope]:
    """Return once so many are stated; there may be more."""

    async def are_stated() -> bool:
        return len(await stated(harness, user_id)) >= number

    await eventually(are_stated, f"{number} refusals to be stated")
    return await stated(harness, user_id)


def said(envelopes: list[Envelope]) -> list[DelegationRefused]:
    return [wire.decode(bytes(each.data), DelegationRefused) for each in envelopes]


@pytest.mark.accept("7.audit.delegated")
async def test_what_is_refused_is_stated_for_the_user(harness: Harness, gateway: Gateway) -> None:
    agent = await ready_agent(harness, gateway)
    foreign = await ready_agent(harness, gateway)
    first = await send(harness, gateway, agent.agent_id, body_for(agent), signed(body_for(agent)))
    await until_recorded(harness, first.invocation_id)
    other = body_for(agent, invoke={"input": {"prompt": "other"}})
    told = [
        await refused(harness, gateway, foreign.agent_id, body_for(agent, "a")),
        await refused(harness, gateway, "agt_nothing-of-ours", body_for(agent, "b"), "shop"),
        await refused(harness, gateway, agent.agent_id, other),
    ]
    await harness.tell(agent, AgentDisabled())
    await harness.until_answers(gateway, agent, 403)
    told.append(await refused(harness, gateway, agent.agent_id, body_for(agent, "c")))
    envelopes = await until_stated(harness, agent.user_id, 4)

    assert said(envelopes) == [
        DelegationRefused(source="desk", code="NOT_FOUND"),
        DelegationRefused(source="shop", code="NOT_FOUND"),
        DelegationRefused(
            source="desk", code="CONFLICT", reason="key_reused", agent_id=agent.agent_id
        ),
        DelegationRefused(
            source="desk", code="UNAUTHORIZED", reason="agent_disabled", agent_id=agent.agent_id
        ),
    ]
    assert [code for _, code in told] == [each.code for each in said(envelopes)]
    for each in envelopes:
        assert (each.user_id, each.version, each.request_id) == (agent.user_id, 1, "req-refused")
        assert each.aggregate_id == each.event_id
    assert {each.actor for each in envelopes} == {"source:desk", "source:shop"}
    assert await stated(harness, foreign.user_id) == []


@pytest.mark.accept("7.audit.delegated")
async def test_a_limit_refuses_and_is_stated(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent("slow")
    await harness.until_answers(gateway, agent, 429)
    assert (await refused(harness, gateway, agent.agent_id, body_for(agent)))[0] == 429
    [one] = said(await until_stated(harness, agent.user_id, 1))
    assert (one.code, one.agent_id) == ("RATE_LIMITED", agent.agent_id)


@pytest.mark.accept("7.audit.delegated")
async def test_what_is_no_refusal_or_nobodys_is_not_stated(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    go_on = asyncio.Event()

    async def held(call: Call) -> None:
        await go_on.wait()
        await echo(call)

    async def failing(call: Call) -> None:
        raise ConnectionResetError

    harness.worker.behaviour = held
    body = body_for(agent)
    running = asyncio.create_task(send(harness, gateway, agent.agent_id, body, signed(body)))
    await eventually(lambda: _true_when(bool(harness.worker.calls)), "the first call")
    assert await refused(harness, gateway, agent.agent_id, body) == (409, "CONFLICT")
    go_on.set()
    assert (await running).status == 200
    harness.worker.behaviour = failing
    assert (await refused(harness, gateway, agent.agent_id, body_for(agent, "f")))[0] == 502
    harness.worker.behaviour = echo

    nobody = body.replace(agent.subject.encode(), b"nobody-yet")
    assert (await refused(harness, gateway, agent.agent_id, nobody))[0] == 404
    no_shape = body_for(agent, invoke={})
    assert (await refused(harness, gateway, agent.agent_id, no_shape))[0] == 400
    bad = signed(body, OTHERS)
    assert (await send(harness, gateway, agent.agent_id, body, bad)).status == 401

    # What is stated goes in order: with this one, the others would be there.
    await refused(harness, gateway, "agt_nothing", body_for(agent, "z"))
    assert len(await until_stated(harness, agent.user_id, 1)) == 1
    stranger = ids.user_id(harness.issuer.url, "nobody-yet")
    assert await stated(harness, stranger) == []


async def _true_when(holds: bool) -> bool:
    return holds


@pytest.mark.accept("7.audit.delegated")
async def test_nobody_floods_the_audit(harness: Harness, gateway: Gateway) -> None:
    agent, other = [await ready_agent(harness, gateway) for _ in range(2)]
    strangers = body_for(agent).replace(agent.subject.encode(), b"a-stranger")

    async def flood(body: bytes) -> None:
        for _ in range(3 * PER_MINUTE):
            await refused(harness, gateway, "agt_nothing", body)

    await asyncio.gather(flood(body_for(agent)), flood(strangers))
    assert (await refused(harness, gateway, "agt_nothing", body_for(other)))[0] == 404
    await until_stated(harness, other.user_id, 1)
    assert len(await until_stated(harness, agent.user_id, PER_MINUTE)) == PER_MINUTE


@pytest.fixture(scope="module")
def own_nats():
    with running_nats() as nats:
        yield nats


@pytest.mark.accept("7.audit.delegated")
async def test_without_the_bus_it_is_refused_at_once_and_stated_later(
    postgres_server: Postgres, own_nats: Nats, tmp_path: Path
) -> None:
    dsn, account = postgres_server.create_database(), own_nats.new_account()
    async with running_harness(dsn, account, tmp_path) as harness:
        gateway = await harness.start(DELEGATION_SECRETS=SECRETS)
        agent: Agent = await ready_agent(harness, gateway)
        own_nats.kill()
        try:
            started = monotonic()
            for key in ("a", "b"):
                await refused(harness, gateway, "agt_nothing", body_for(agent, key))
            assert monotonic() - started < SOON_S
        finally:
            own_nats.start()
        assert len(await until_stated(harness, agent.user_id, 2)) == 2
