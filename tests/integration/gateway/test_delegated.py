"""Delegated invocation: a back end's signature instead of a user's token, and the user's limits."""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from webhost_contracts import ids
from webhost_contracts.signatures import delegation_signature
from webhost_kit.clock import now_ms
from webhost_kit.keys import base64url

from tests.integration.gateway.harness import Agent, Gateway, Harness
from tests.integration.gateway.test_idempotency import Answer, claims, until_recorded
from tests.support.slow import first_answer, slow_clients

ROOT = Path(__file__).parents[3]
NEW, OLD, OTHERS = (bytes([n]) * 32 for n in (1, 2, 3))
SECRETS = f"desk:{base64url(NEW)},desk:{base64url(OLD)},shop:{base64url(OTHERS)}"
MINUTES_5 = 5 * 60 * 1000


@pytest.fixture(scope="module")
async def delegating(shared_harness: Harness) -> AsyncIterator[Gateway]:
    """A gateway that knows back ends."""
    gateway = await shared_harness.start(DELEGATION_SECRETS=SECRETS, TRUSTED_PROXIES="127.0.0.1")
    yield gateway
    await gateway.stop()


@pytest.fixture
def gateway(harness: Harness, delegating: Gateway) -> Gateway:
    assert harness
    return delegating


def body_for(agent: Agent, key: str = "k", **changes: Any) -> bytes:
    delegation = {"mode": "hmac_v1", "externalUserId": agent.subject, "idempotencyKey": key}
    return msgspec.json.encode(
        {"delegation": delegation, "invoke": {"input": {"prompt": "hi"}}} | changes
    )


def signed(body: bytes, secret: bytes = NEW, source: str = "desk") -> dict[str, str]:
    return {
        "X-WHS-Delegation-Source": source,
        "X-WHS-Delegation-Timestamp": str(now_ms()),
        "X-WHS-Delegation-Signature": delegation_signature(secret, body),
    }


async def send(
    harness: Harness, gateway: Gateway, agent_id: str, body: bytes, headers: Mapping[str, str]
) -> Answer:
    url = f"{gateway.url}/v1/delegated/invoke/{agent_id}"
    async with harness.http.post(url, data=body, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


async def ready_agent(harness: Harness, gateway: Gateway, tier: str | None = None) -> Agent:
    agent = await harness.agent(tier)
    await harness.until_answers(gateway, agent)
    harness.worker.calls.clear()
    return agent


@pytest.mark.accept("7.5.delegated")
async def test_a_back_end_calls_as_its_user_and_a_repeat_runs_nothing(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    body = body_for(agent)
    first = await send(harness, gateway, agent.agent_id, body, signed(body))
    assert first.status == 200
    assert msgspec.json.decode(first.body)["output"] == {"text": "You said: hi"}
    await until_recorded(harness, first.invocation_id)
    again = await send(harness, gateway, agent.agent_id, body, signed(body, OLD))
    assert (again.status, again.body) == (200, first.body)
    assert again.invocation_id == first.invocation_id
    other = body_for(agent, correlation_of="another")
    assert (await send(harness, gateway, agent.agent_id, other, signed(other))).status == 400
    other = body_for(agent, invoke={"input": {"prompt": "other"}})
    refused = await send(harness, gateway, agent.agent_id, other, signed(other))
    assert refused.reason == "key_reused"
    assert len(harness.worker.calls) == 1
    assert harness.worker.calls[0].body["deployment"]["userId"] == agent.user_id
    envelopes = await harness.until_facts(agent, 2) and await harness.envelopes(agent)
    assert [e.user_id for e in envelopes] == [agent.user_id] * 2
    [row] = await claims(harness, agent)
    assert (row["kind"], row["key"]) == ("delegated", "k")


@pytest.mark.accept("7.5.delegated")
async def test_a_users_keys_and_a_back_ends_do_not_meet(harness: Harness, gateway: Gateway) -> None:
    agent = await ready_agent(harness, gateway)
    assert (await harness.invoke(gateway, agent, headers={"Idempotency-Key": "k"}))[0] == 200
    body = body_for(agent)
    assert (await send(harness, gateway, agent.agent_id, body, signed(body))).status == 200
    assert len(harness.worker.calls) == 2


@pytest.mark.accept("7.5.delegated")
async def test_of_many_at_once_one_runs(harness: Harness, gateway: Gateway) -> None:
    agent = await ready_agent(harness, gateway)
    body = body_for(agent)
    answers = await asyncio.gather(
        *(send(harness, gateway, agent.agent_id, body, signed(body)) for _ in range(20))
    )
    assert {a.status for a in answers} <= {200, 409}
    assert all(a.error["retryable"] for a in answers if a.status == 409)
    assert len(harness.worker.calls) == 1


@pytest.mark.accept("7.5.credentials")
async def test_bad_credentials_of_any_kind_look_the_same(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    body = body_for(agent)
    good = signed(body)
    flipped = bytes([body[-3] ^ 1])
    wrong: dict[str, tuple[bytes, dict[str, str]]] = {
        "no headers": (body, {}),
        "a token": (body, {"Authorization": f"Bearer {agent.token}"}),
        "a token beside": (body[:-1] + b" }", good | {"Authorization": f"Bearer {agent.token}"}),
        "unknown source": (body, good | {"X-WHS-Delegation-Source": "nobody"}),
        "another source": (body, good | {"X-WHS-Delegation-Source": "shop"}),
        "another's secret": (body, signed(body, OTHERS)),
        "a bit of the body": (body[:-3] + flipped + body[-2:], good),
        "no JSON, unsigned": (b"{", good),
        "late": (body, good | stamped(now_ms() - MINUTES_5 - 5_000)),
        "early": (body, good | stamped(now_ms() + MINUTES_5 + 30_000)),
        "no time": (body, good | {"X-WHS-Delegation-Timestamp": "soon"}),
        "negative time": (body, good | {"X-WHS-Delegation-Timestamp": "-1"}),
        "no scheme": (body, good | signature(good["X-WHS-Delegation-Signature"][3:])),
        "upper case": (body, good | signature(good["X-WHS-Delegation-Signature"].upper())),
        "empty": (body, good | signature("")),
    }
    for header in good:
        wrong[f"without {header}"] = (body, {n: v for n, v in good.items() if n != header})
    for place in range(3, 67, 7):
        stated = good["X-WHS-Delegation-Signature"]
        digit = format(int(stated[place], 16) ^ 1, "x")
        changed = stated[:place] + digit + stated[place + 1 :]
        wrong[f"digit {place} of the signature"] = (body, good | signature(changed))
    seen: set[bytes] = set()
    for name, (sent, headers) in wrong.items():
        got = await send(harness, gateway, agent.agent_id, sent, headers | {"X-Request-Id": "r"})
        assert got.status == 401, name
        assert "WWW-Authenticate" not in got.headers
        seen.add(got.body)
    assert len(seen) == 1
    assert harness.worker.calls == []
    # What the bad ones were made of is good; so are times near the bounds.
    for at_ms in (now_ms() - MINUTES_5 + 30_000, now_ms() + MINUTES_5 - 30_000):
        headers = good | stamped(at_ms)
        assert (await send(harness, gateway, agent.agent_id, body, headers)).status in (200, 409)


@pytest.mark.accept("7.5.credentials")
async def test_a_signature_is_good_for_nothing_else_and_nobody_is_known_by_default(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    body = b'{"input": {"prompt": "hi"}}'
    url = f"{gateway.url}/v1/invoke/{agent.agent_id}"
    async with harness.http.post(url, data=body, headers=signed(body)) as response:
        assert response.status == 401
    body = body_for(agent)
    unaware = harness.gateways[0]
    refused = await send(harness, unaware, agent.agent_id, body, signed(body))
    assert (refused.status, refused.error["code"]) == (401, "UNAUTHENTICATED")
    assert harness.worker.calls == []


@pytest.mark.accept("7.5.delegated")
async def test_everything_else_is_done_as_that_user(harness: Harness, gateway: Gateway) -> None:
    """Ownership, limits and rates; an unknown user looks like a foreign agent's."""
    owner, stranger = [await ready_agent(harness, gateway) for _ in range(2)]
    stranger_id = ids.user_id(harness.issuer.url, "nobody-yet")
    bodies = [body_for(stranger), body_for(owner).replace(owner.subject.encode(), b"nobody-yet")]
    answers = [await send(harness, gateway, owner.agent_id, b, signed(b)) for b in bodies]
    assert [a.status for a in answers] == [404, 404]
    told = [{k: v for k, v in a.error.items() if k != "requestId"} for a in answers]
    assert told[0] == told[1]
    assert await harness.rows("SELECT 1 FROM idempotency WHERE user_id = :u", u=stranger_id) == []
    paced = await harness.agent("slow")
    await harness.until_answers(gateway, paced, 429)
    body = body_for(paced)
    refused = await send(harness, gateway, paced.agent_id, body, signed(body))
    assert (refused.status, refused.error["code"]) == (429, "RATE_LIMITED")


@pytest.mark.accept("7.5.delegated")
async def test_a_back_ends_calls_have_the_limits_of_its_users_tier(
    harness: Harness, gateway: Gateway
) -> None:
    limited = await ready_agent(harness, gateway, "small")
    for _ in range(19):
        assert (await harness.invoke(gateway, limited))[0] == 200
    body = body_for(limited)
    refused = await send(harness, gateway, limited.agent_id, body, signed(body))
    assert (refused.status, refused.error["code"]) == (402, "LIMIT_EXCEEDED")
    assert refused.error["details"]["limit"] == 20


@pytest.mark.accept("6.B5", "7.5.credentials")
async def test_whoever_names_a_source_does_not_hold_up_its_signed_calls(
    harness: Harness, gateway: Gateway
) -> None:
    """Bodies that are not signed yet take the room of their address."""
    agent = await ready_agent(harness, gateway)
    size = 1024 * 1024
    stated = "".join(f"{name}: {value}\r\n" for name, value in signed(b"another").items())
    head = (
        f"POST /v1/delegated/invoke/{agent.agent_id} HTTP/1.1\r\nHost: x\r\n{stated}"
        f"X-Forwarded-For: 192.0.2.1\r\nContent-Length: {size}\r\n\r\n"
    )
    body = body_for(agent, invoke={"input": {"prompt": "y" * (size // 2)}})
    port = int(gateway.url.rpartition(":")[2])
    # So many that not all may even wait for room: the first ones have it.
    async with slow_clients(port, [head.encode() + b"1"] * 80) as clients:
        assert (await first_answer(clients)).startswith(b"HTTP/1.1 503")
        headers = signed(body) | {"X-Forwarded-For": "192.0.2.2"}
        assert (await send(harness, gateway, agent.agent_id, body, headers)).status == 200


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"delegation": {"mode": "hmac_v2"}}, ["delegation", "mode"]),
        ({"delegation": {"mode": "hmac_v1"}}, ["delegation", "externalUserId"]),
        ({"delegation": "x"}, ["delegation"]),
        ({"invoke": {"input": {}}}, ["invoke", "input"]),
        ({"invoke": {"input": {"prompt": "a"}, "stream": True}}, ["invoke", "stream"]),
        ({"more": 1}, ["more"]),
    ],
)
async def test_the_bodys_shape_is_strict(
    harness: Harness, gateway: Gateway, changes: dict[str, Any], path: list[str]
) -> None:
    agent = Agent("", "agt_00000000000000000000000000", "", "", subject="someone")
    body = body_for(agent, **changes)
    got = await send(harness, gateway, agent.agent_id, body, signed(body))
    assert (got.status, got.error["code"]) == (400, "INVALID_REQUEST")
    assert got.error["details"]["issues"][0]["path"] == path


@pytest.mark.parametrize(
    "key", ["", "x" * 201, "a\x00b", "a\n"], ids=["empty", "long", "control", "newline"]
)
async def test_the_keys_form(harness: Harness, gateway: Gateway, key: str) -> None:
    agent = Agent("", "agt_00000000000000000000000000", "", "", subject="someone")
    body = body_for(agent, key)
    got = await send(harness, gateway, agent.agent_id, body, signed(body))
    assert got.error["details"]["issues"][0]["path"] == ["delegation", "idempotencyKey"]


async def test_no_browser_and_no_other_method(harness: Harness, gateway: Gateway) -> None:
    url = f"{gateway.url}/v1/delegated/invoke/{secrets.token_hex(4)}"
    origin = {"Origin": "https://app.example"}
    for method in ("OPTIONS", "GET"):
        async with harness.http.request(method, url, headers=origin) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert not [name for name in response.headers if name.startswith("Access-Control")]
    async with harness.http.post(f"{url}/stream", headers=origin) as response:
        assert response.status == 404
        assert not [name for name in response.headers if name.startswith("Access-Control")]


def stamped(at_ms: int) -> dict[str, str]:
    return {"X-WHS-Delegation-Timestamp": str(at_ms)}


def signature(value: str) -> dict[str, str]:
    return {"X-WHS-Delegation-Signature": value}


async def test_the_documents_example_runs_as_it_is_written(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    text = (ROOT / "docs/calling-an-agent.md").read_text("utf-8")
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", example),
        env={
            "WEBHOST_URL": gateway.url,
            "AGENT": agent.agent_id,
            "USER_SUBJECT": agent.subject,
            "DELEGATION_SOURCE": "desk",
            "DELEGATION_SECRET": base64url(NEW),
        },
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await ran.communicate()
    assert (ran.returncode, said) == (0, b"You said: Good morning\n")
