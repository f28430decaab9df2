"""API keys at the api: made, rotated, revoked, and what a request with one may do."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from webhost_api.keys.access import Keys
from webhost_api.keys.decisions import MAX_LIVE_KEYS
from webhost_api.rate_limits import RateLimits
from webhost_contracts import api_keys, subjects, wire
from webhost_contracts.api_keys import SCOPES, hash_of, parse, token_of
from webhost_contracts.events import KeyCreated, KeyRevoked, KeyRotated
from webhost_kit.clock import now_ms
from webhost_kit.errors import Unavailable

from tests.integration.api.harness import MISSING, Harness, User, ok, problem
from tests.integration.api.held_table import held_table
from tests.integration.api.test_idempotency import keyed
from tests.support.deadline import eventually
from tests.unit.api.test_rate_limits import RATES

DAY_MS = 24 * 3600 * 1000


def unauthenticated(response: httpx.Response) -> dict[str, Any]:
    error = problem(response, 401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    del error["requestId"]
    return error


def refused(response: httpx.Response) -> str:
    error = problem(response, 403, "UNAUTHORIZED")
    assert error["details"] == {"reason": "scope"}
    return error["message"]


@pytest.mark.accept("7.keys.made")
async def test_a_key_is_shown_once_and_stored_as_a_hash(harness: Harness, user: User) -> None:
    agent = await user.create()
    body = {
        "name": "ci",
        "scopes": ["invoke", "read"],
        "agentIds": [agent["id"]],
        "expiresAtMs": now_ms() + DAY_MS,
        "limits": {"requests": 10, "period": "day"},
    }
    made = ok(await user.http.post("/v1/keys", json=body, headers=keyed("k")), 201)
    key, token = made["key"], made["token"]
    presented = parse(token)
    assert presented is not None
    assert presented.key_id == key["id"]
    assert {name: key[name] for name in body} == body
    assert ok(await user.http.get("/v1/keys")) == {"keys": [key], "nextCursor": None}

    envelope = await harness.fact(user.id, KeyCreated, key["id"])
    fact = wire.decode(bytes(envelope.data), KeyCreated)
    assert fact.secret_hash == presented.secret_hash
    secret = token.split("_")[2]
    for table in ("events", "outbox", "api_keys", "idempotency"):
        dump = json.dumps(await harness.rows(f"SELECT * FROM {table}"), default=_in_full)
        assert secret not in dump
        assert secret[:32] not in dump


def _in_full(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


@pytest.mark.accept("7.keys.made")
async def test_the_same_request_gives_the_same_key_again(user: User) -> None:
    body = {"name": "ci", "scopes": ["read"]}
    answers = await asyncio.gather(
        *(user.http.post("/v1/keys", json=body, headers=keyed("k")) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    again = await user.http.post("/v1/keys", json=body, headers=keyed("k"))
    [first] = {answer.text for answer in (*answers, again) if answer.status_code == 201}
    made = json.loads(first)
    assert len(ok(await user.http.get("/v1/keys"))["keys"]) == 1
    problem(
        await user.http.post("/v1/keys", json=body | {"name": "x"}, headers=keyed("k")),
        409,
        "CONFLICT",
    )
    path = f"/v1/keys/{made['key']['id']}/rotate"
    rotated = ok(await user.http.post(path, json={}, headers=keyed("r")))
    assert ok(await user.http.post(path, json={}, headers=keyed("r"))) == rotated
    assert rotated["token"] != made["token"]


async def test_an_answer_that_cannot_be_read_is_not_made_up(harness: Harness, user: User) -> None:
    body = {"name": "ci", "scopes": ["read"]}
    ok(await user.http.post("/v1/keys", json=body, headers=keyed("k")), 201)
    by_another = "UPDATE idempotency SET key_id = 'withdrawn' WHERE user_id = :id"
    await harness.execute(by_another, id=user.id)
    error = problem(
        await user.http.post("/v1/keys", json=body, headers=keyed("k")), 409, "CONFLICT"
    )
    assert error["retryable"] is False
    assert len(ok(await user.http.get("/v1/keys"))["keys"]) == 1


def damaged(token: str) -> Iterator[str]:
    """The key with one bit flipped: with its checksum as it was, and made right again."""
    _, suffix, secret, _ = token.split("_")
    flipped = bytes.fromhex(secret)
    flipped = flipped[:-1] + bytes([flipped[-1] ^ 1])
    yield token.replace(secret, flipped.hex())
    yield token_of(f"key_{suffix}", flipped)
    yield token_of(f"key_{MISSING}", bytes.fromhex(secret))
    yield token[:-1] + ("0" if token[-1] != "0" else "1")
    yield token[:-9]
    yield token.upper()
    yield api_keys.PREFIX


@pytest.mark.accept("7.keys.refused")
async def test_what_is_not_the_key_is_refused_alike(harness: Harness, user: User) -> None:
    key = await user.key("admin")
    assert ok(await key.http.get("/v1/me"))["user"]["id"] == user.id
    expected = unauthenticated(await harness.with_token("x").get("/v1/me"))
    for token in damaged(key.token):
        assert unauthenticated(await harness.with_token(token).get("/v1/me")) == expected
    ok(await key.http.get("/v1/me"))


@pytest.mark.accept("7.keys.refused")
async def test_an_expired_key_is_refused(harness: Harness, user: User) -> None:
    key = await user.key("read", expiresAtMs=now_ms() + DAY_MS)
    ok(await key.http.get("/v1/me"))
    # when its time is over: the row that a request is compared with has been moved there
    ended = "UPDATE api_keys SET state = jsonb_set(state, '{expires_at_ms}', :at) WHERE key_id = :k"
    await harness.execute(ended, at=str(now_ms() - 1), k=key.id)
    unauthenticated(await key.http.get("/v1/me"))
    problem(await user.http.post(f"/v1/keys/{key.id}/rotate"), 409, "CONFLICT")
    past = {"name": "k", "scopes": ["read"], "expiresAtMs": now_ms() - 1}
    details = problem(await user.http.post("/v1/keys", json=past), 400, "INVALID_REQUEST")
    assert details["details"]["issues"][0]["path"] == ["expiresAtMs"]
    assert ok(await user.http.delete(f"/v1/keys/{key.id}"), 204) is None


@pytest.mark.accept("7.keys.refused")
async def test_no_key_is_good_while_a_revocation_may_be_missing(
    harness: Harness, user: User
) -> None:
    """The database was put back, and the facts since are not read yet."""
    key = await user.key("read")
    keys, header = Keys(harness.database, RateLimits(RATES)), f"Bearer {key.token}"
    harness.database.verified = "another"
    try:
        with pytest.raises(Unavailable):
            await keys.find(header, "127.0.0.1")
    finally:
        harness.database.verified = None
    known = await keys.find(header, "127.0.0.1")
    assert known is not None
    assert known[0].id == key.id


@pytest.mark.accept("7.keys.refused")
async def test_a_revoked_key_is_refused_and_gone(harness: Harness, user: User) -> None:
    key = await user.key()
    response = await user.http.delete(f"/v1/keys/{key.id}")
    assert (response.status_code, response.content) == (204, b"")
    unauthenticated(await key.http.get("/v1/me"))
    assert ok(await user.http.get("/v1/keys"))["keys"] == []
    await harness.fact(user.id, KeyRevoked, key.id)
    problem(await user.http.delete(f"/v1/keys/{key.id}"), 404, "NOT_FOUND")
    problem(await user.http.post(f"/v1/keys/{key.id}/rotate"), 404, "NOT_FOUND")


@pytest.mark.accept("7.keys.rotation")
async def test_two_secrets_are_good_while_they_overlap(harness: Harness, user: User) -> None:
    first = await user.key("read")
    path = f"/v1/keys/{first.id}/rotate"

    async def rotate(seconds: int) -> httpx.AsyncClient:
        made = ok(await user.http.post(path, json={"overlapSeconds": seconds}))
        assert made["key"]["id"] == first.id
        return harness.with_token(made["token"])

    second = await rotate(600)
    for http in (first.http, second):
        ok(await http.get("/v1/me"))
    rotated = await harness.fact(user.id, KeyRotated, first.id)
    until_ms = wire.decode(bytes(rotated.data), KeyRotated).previous_expires_at_ms
    assert until_ms == rotated.occurred_at_ms + 600_000

    third = await rotate(1)
    ok(await third.get("/v1/me"))
    unauthenticated(await first.http.get("/v1/me"))

    async def ended() -> bool:
        return (await second.get("/v1/me")).status_code == 401

    await eventually(ended, "the overlap to end")
    fourth = await rotate(0)
    unauthenticated(await third.get("/v1/me"))
    ok(await fourth.get("/v1/me"))
    ok(await user.http.post(path, json={}))
    # Behind those of the two rotations between.
    rotated = await harness.fact(user.id, KeyRotated, first.id, version=rotated.version + 3)
    until_ms = wire.decode(bytes(rotated.data), KeyRotated).previous_expires_at_ms
    assert until_ms == rotated.occurred_at_ms + DAY_MS, "a day, where nothing else is said"
    for seconds in (-1, 7 * 24 * 3600 + 1, "1"):
        response = await user.http.post(path, json={"overlapSeconds": seconds})
        problem(response, 400, "INVALID_REQUEST")


ROUTES = {
    ("GET", "/v1/me"): "read",
    ("GET", "/v1/agents"): "read",
    ("GET", "/v1/agents/{agent}"): "read",
    ("GET", "/v1/agents/{agent}/deployments"): "read",
    ("GET", "/v1/deployments/{deployment}"): "read",
    ("GET", "/v1/deployments/{deployment}/source"): "read",
    ("GET", "/v1/templates"): "read",
    ("GET", "/v1/keys"): "read",
    ("GET", "/v1/metrics/recent"): "read",
    ("GET", "/v1/usage/current"): "read",
    ("POST", "/v1/uploads"): "deploy",
    ("POST", "/v1/agents/{agent}/deploy"): "deploy",
    ("POST", "/v1/agents/{agent}/deployments"): "deploy",
    ("POST", "/v1/agents/{agent}/deployments/{deployment}/activate"): "deploy",
    ("POST", "/v1/agents"): "admin",
    ("PATCH", "/v1/agents/{agent}"): "admin",
    ("POST", "/v1/agents/{agent}/disable"): "admin",
    ("POST", "/v1/agents/{agent}/enable"): "admin",
    ("DELETE", "/v1/agents/{agent}"): "admin",
}


@pytest.mark.accept("7.keys.scopes")
async def test_each_route_needs_its_scope(user: User) -> None:
    agent = await user.create()
    made = {"agent": agent["id"], "deployment": (await user.deploy(agent["id"]))["id"]}
    keys = {scope: await user.key(scope) for scope in SCOPES}
    for (method, path), needed in ROUTES.items():
        for scope, key in keys.items():
            if scope == "admin":
                continue
            response = await key.http.request(method, path.format(**made))
            if scope == needed:
                assert response.status_code not in (401, 403), (scope, method, path)
            else:
                assert f"'{needed}'" in refused(response), (scope, method, path)
    for method, path in ROUTES:
        response = await keys["admin"].http.request(method, path.format(**made))
        assert response.status_code not in (401, 403), (method, path)


@pytest.mark.accept("7.keys.scopes")
async def test_no_key_makes_rotates_or_revokes_keys(user: User) -> None:
    key = await user.key("admin")
    body = {"name": "k", "scopes": ["read"]}
    for response in (
        await key.http.post("/v1/keys", json=body),
        await key.http.post(f"/v1/keys/{key.id}/rotate"),
        await key.http.delete(f"/v1/keys/{key.id}"),
    ):
        assert "JWT" in refused(response)
    assert len(ok(await user.http.get("/v1/keys"))["keys"]) == 1


@pytest.mark.accept("7.keys.agents")
async def test_a_key_of_one_agent_knows_of_no_other(user: User) -> None:
    mine, other = await user.create(), await user.create()
    deployments = {a["id"]: (await user.deploy(a["id"]))["id"] for a in (mine, other)}
    key = await user.key("admin", agentIds=[mine["id"]])
    listed = ok(await key.http.get("/v1/agents?includeDeleted=true"))["agents"]
    assert [agent["id"] for agent in listed] == [mine["id"]]
    for path in ("/v1/me", "/v1/templates"):
        ok(await key.http.get(path))
    open_here = {("GET", each) for each in ("/v1/me", "/v1/agents", "/v1/templates")}
    open_here |= {("POST", "/v1/uploads")}
    own = {"agent": mine["id"], "deployment": deployments[mine["id"]]}
    foreign = {"agent": other["id"], "deployment": deployments[other["id"]]}
    missing = {"agent": f"agt_{MISSING}", "deployment": f"dep_{MISSING}"}
    routes = [*ROUTES, ("GET", "/v1/metrics/recent?agentId={agent}")]
    for method, path in routes:
        if "{" not in path:
            if (method, path) not in open_here:
                assert "whole account" in refused(await key.http.request(method, path))
            continue
        bodies = []
        for named in (foreign, missing):
            response = await key.http.request(method, path.format(**named))
            bodies.append(problem(response, 404, "NOT_FOUND"))
            del bodies[-1]["requestId"]
        assert bodies[0] == bodies[1], path
        answered = await key.http.request(method, path.format(**own))
        assert answered.status_code not in (401, 403, 404), path
    ok(await user.http.get(f"/v1/agents/{other['id']}"))


async def test_a_key_is_for_ones_own_agents(harness: Harness, user: User) -> None:
    async with (stranger := harness.user()).http:
        theirs = await stranger.create()
    deleted = await user.create()
    ok(await user.http.delete(f"/v1/agents/{deleted['id']}"))
    errors = []
    for agent_id in (theirs["id"], f"agt_{MISSING}", deleted["id"]):
        body = {"name": "k", "scopes": ["read"], "agentIds": [agent_id]}
        errors.append(problem(await user.http.post("/v1/keys", json=body), 404, "NOT_FOUND"))
        del errors[-1]["requestId"]
    assert errors == [errors[0]] * 3


async def test_what_a_key_does_is_stated_under_its_id(harness: Harness, user: User) -> None:
    key = await user.key("admin")
    agent = ok(await key.http.post("/v1/agents", json={"name": "made by a key"}), 201)["agent"]
    assert agent["userId"] == user.id
    subject = subjects.event(user.id, "agent", agent["id"])

    async def stated() -> bool:
        info = await harness.bus.js.stream_info(subjects.EVENTS, subjects_filter=subject)
        return bool(info.state.subjects)

    await eventually(stated, "the fact")
    message = await harness.bus.js.get_last_msg(subjects.EVENTS, subject)
    assert json.loads(message.data or b"")["actor"] == f"key:{key.id}"


@pytest.mark.accept("7.keys.bounded")
async def test_live_keys_are_bounded(harness: Harness, user: User) -> None:
    first = await user.key("read")
    copied = """
        INSERT INTO api_keys (key_id, user_id, expires_at_ms, revoked_at_ms, state)
        SELECT 'key_' || lpad(n::text, 26, '0'), user_id, CASE WHEN n = 1 THEN 1 END, NULL, state
        FROM api_keys, generate_series(1, :n) AS n WHERE key_id = :key_id
    """
    # One of them has expired, and does not count.
    assert await harness.execute(copied, n=MAX_LIVE_KEYS, key_id=first.id) == MAX_LIVE_KEYS
    body = {"name": "one too many", "scopes": ["read"]}
    error = problem(await user.http.post("/v1/keys", json=body), 402, "LIMIT_EXCEEDED")
    assert error["details"] == {
        "limitType": "keys",
        "current": MAX_LIVE_KEYS,
        "limit": MAX_LIVE_KEYS,
        "suggestedAction": "revoke",
    }
    assert ok(await user.http.delete(f"/v1/keys/{first.id}"), 204) is None
    ok(await user.http.post("/v1/keys", json=body), 201)
    await harness.execute("DELETE FROM api_keys WHERE key_id LIKE 'key_00%'")


@pytest.mark.accept("7.keys.bounded")
async def test_of_two_keys_at_once_one_is_the_last(harness: Harness, user: User) -> None:
    first = await user.key("read")
    copied = """
        INSERT INTO api_keys (key_id, user_id, state)
        SELECT 'key_' || lpad(n::text, 26, '0'), user_id, state
        FROM api_keys, generate_series(2, :n) AS n WHERE key_id = :key_id
    """
    await harness.execute(copied, n=MAX_LIVE_KEYS - 1, key_id=first.id)
    body = {"name": "the last one", "scopes": ["read"]}
    async with held_table(harness, "api_keys", until_waiting=2):
        made = [asyncio.create_task(user.http.post("/v1/keys", json=body)) for _ in range(2)]
    assert sorted([answer.status_code for answer in await asyncio.gather(*made)]) == [201, 402]
    await harness.execute("DELETE FROM api_keys WHERE key_id LIKE 'key_00%'")


def test_a_user_has_a_hundred_live_keys() -> None:
    assert MAX_LIVE_KEYS == 100


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, ["name"]),
        ({"scopes": []}, ["scopes"]),
        ({"scopes": ["all"]}, ["scopes", 0]),
        ({"scopes": ["read", "read"]}, ["scopes"]),
        ({"agentIds": []}, ["agentIds"]),
        ({"expiresAtMs": -1}, ["expiresAtMs"]),
        ({"limits": {"requests": -1, "period": "day"}}, ["limits", "requests"]),
        ({"limits": {"requests": 1, "period": "week"}}, ["limits", "period"]),
        ({"limits": {"requests": 1, "period": "day", "x": 1}}, ["limits", "x"]),
        ({"secret": "mine"}, ["secret"]),
    ],
    ids=str,
)
async def test_a_bad_field_of_a_key_is_named(
    user: User, fields: dict[str, Any], path: list[Any]
) -> None:
    body = {"name": "k", "scopes": ["read"], **fields}
    error = problem(await user.http.post("/v1/keys", json=body), 400, "INVALID_REQUEST")
    assert error["details"]["issues"][0]["path"] == path


def test_a_token_says_what_it_is() -> None:
    token = token_of("key_01kbbkb1z8e40r2081040g2081", bytes(32))
    presented = parse(token)
    assert presented is not None
    assert presented.key_id == "key_01kbbkb1z8e40r2081040g2081"
    assert presented.matches(hash_of(bytes(32)))
    assert not presented.matches(hash_of(bytes([1] * 32)))
