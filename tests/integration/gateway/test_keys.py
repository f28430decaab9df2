"""API keys at the gateway, which checks them from memory."""

import dataclasses
from typing import Any

import pytest
from webhost_contracts.api_keys import token_of
from webhost_contracts.periods import day_key, period_key
from webhost_kit.clock import now_ms

from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.keys import a_key

SOON_MS = 4_000
"""Longer than it takes a gateway under load to know a key, and to answer with it."""


async def refusal(harness: Harness, gateway: Gateway, caller: Agent, status: int) -> Any:
    """The error of a call that is refused with this status, without its request id."""
    got, body = await harness.invoke(gateway, caller)
    assert got == status, body
    del body["error"]["requestId"]
    return body["error"]


@pytest.mark.accept("7.keys.refused")
async def test_what_is_not_the_key_is_refused_alike(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    key = await a_key(harness, agent)
    await harness.until_answers(gateway, key.caller)
    flipped = token_of(key.id, bytes([key.secret[0] ^ 1]) + key.secret[1:])
    good = key.caller.token
    bad = [
        flipped,
        flipped[:-9] + good[-9:],
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        token_of(f"key_{'z' * 26}", key.secret),
        good.upper(),
        "whs_",
    ]
    expected = await refusal(harness, gateway, dataclasses.replace(agent, token="x"), 401)
    for token in bad:
        caller = dataclasses.replace(agent, token=token)
        assert await refusal(harness, gateway, caller, 401) == expected, token
    await harness.until_answers(gateway, key.caller)


@pytest.mark.accept("7.keys.refused")
async def test_a_key_ends_by_its_time_or_its_revocation(harness: Harness, gateway: Gateway) -> None:
    """Also when it is remembered as good, and used over and over."""
    agent = await harness.agent()
    expires_at_ms = now_ms() + SOON_MS
    short = await a_key(harness, agent, expires_at_ms=expires_at_ms)
    await harness.until_answers(gateway, short.caller)
    await harness.until_answers(gateway, short.caller, 401)
    assert now_ms() >= expires_at_ms

    revoked = await a_key(harness, agent)
    await harness.until_answers(gateway, revoked.caller)
    await revoked.revoke()
    await harness.until_answers(gateway, revoked.caller, 401)
    # A fact of before changes nothing.
    revoked.version = 1
    await revoked.rotate(60)
    await harness.until_answers(gateway, (await a_key(harness, agent)).caller)
    await refusal(harness, gateway, revoked.caller, 401)


@pytest.mark.accept("7.keys.rotation")
async def test_two_secrets_are_good_while_they_overlap(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    first = await a_key(harness, agent)
    await harness.until_answers(gateway, first.caller)
    second = await first.rotate(60)
    await harness.until_answers(gateway, second.caller)
    assert (await harness.invoke(gateway, first.caller))[0] == 200
    third = await second.rotate(1.0)
    await harness.until_answers(gateway, third.caller)
    await refusal(harness, gateway, first.caller, 401)
    await harness.until_answers(gateway, second.caller, 401)
    assert (await harness.invoke(gateway, third.caller))[0] == 200


@pytest.mark.accept("7.keys.scopes")
async def test_a_call_needs_the_scope_to_invoke(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    for scope in ("read", "deploy", "secrets"):
        key = await a_key(harness, agent, scope)
        await harness.until_answers(gateway, key.caller, 403)
        error = await refusal(harness, gateway, key.caller, 403)
        assert (error["code"], error["details"]) == ("UNAUTHORIZED", {"reason": "scope"})
        assert "'invoke'" in error["message"]
    await harness.until_answers(gateway, (await a_key(harness, agent, "admin")).caller)


@pytest.mark.accept("7.keys.agents")
async def test_a_key_of_one_agent_calls_no_other(harness: Harness, gateway: Gateway) -> None:
    agent, foreign = await harness.agent(), await harness.agent()
    limited = await a_key(harness, agent, agent_ids=(agent.agent_id,))
    elsewhere = await a_key(harness, agent, agent_ids=("agt_other",))
    await harness.until_answers(gateway, limited.caller)
    await harness.until_answers(gateway, elsewhere.caller, 404)
    errors = [await refusal(harness, gateway, elsewhere.caller, 404)]
    for agent_id in (foreign.agent_id, f"agt_{'z' * 26}"):
        caller = dataclasses.replace(limited.caller, agent_id=agent_id)
        errors.append(await refusal(harness, gateway, caller, 404))
    assert errors[0] == errors[1] == errors[2]


@pytest.mark.accept("7.keys.limits")
async def test_a_keys_own_limit_is_its_own(harness: Harness, gateway: Gateway) -> None:
    """Its user's other calls go on; every call is stated with the key that made it."""
    agent = await harness.agent()
    daily = await a_key(harness, agent, limit=(2, "day"))
    monthly = await a_key(harness, agent, limit=(1, "month"))
    free = await a_key(harness, agent)
    for key, number in ((daily, 2), (monthly, 1), (free, 3)):
        await harness.until_answers(gateway, key.caller)
        for _ in range(number - 1):
            assert (await harness.invoke(gateway, key.caller))[0] == 200
    now = now_ms()
    for key, limit, period in ((daily, 2, day_key(now)), (monthly, 1, period_key(now))):
        error = await refusal(harness, gateway, key.caller, 402)
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["details"] == {
            "limitType": "requests",
            "keyId": key.id,
            "periodKey": period,
            "current": limit,
            "limit": limit,
            "suggestedAction": "wait",
        }
    assert (await harness.invoke(gateway, agent))[0] == 200
    stated = [fact.key_id for fact in await harness.until_facts(agent, 7)]
    assert stated == [daily.id] * 2 + [monthly.id] + [free.id] * 3 + [None]
