"""The same key with the same body gives the first answer again, and nothing is done twice."""

import asyncio
import hashlib
from typing import Any

import httpx
import psycopg
import pytest
from webhost_api.idempotency import KEPT_MS, IdempotencyKey
from webhost_contracts import ids
from webhost_kit.keys import base64url
from webhost_kit.response_keys import ResponseKeys

from tests.integration.api.harness import KEYS, Harness, User, ok, problem
from tests.support.deadline import eventually

RESPONSE_KEYS = ResponseKeys.parse(KEYS["RESPONSE_KEYS"])


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


@pytest.mark.accept("2.idempotency")
async def test_a_replay_gives_the_first_answer(user: User) -> None:
    first = await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed("k"))
    again = await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed("k"))
    assert ok(first, 201) == ok(again, 201)
    assert len(ok(await user.http.get("/v1/agents"))["agents"]) == 1

    agent_id = first.json()["agent"]["id"]
    path = f"/v1/agents/{agent_id}/deploy"
    deployed = await user.http.post(path, json={}, headers=keyed("k"))
    replayed = await user.http.post(path, json={}, headers=keyed("k"))
    assert ok(deployed, 202) == ok(replayed, 202)
    problem(await user.http.post(path, json={}, headers=keyed("k2")), 409, "CONFLICT")
    ok(await user.http.delete(f"/v1/agents/{agent_id}"))
    assert ok(await user.http.post(path, json={}, headers=keyed("k")), 202) == replayed.json()


@pytest.mark.accept("2.idempotency")
async def test_what_is_kept_of_a_request_cannot_be_guessed_without_the_keys(
    harness: Harness, user: User
) -> None:
    body = b'{"name":"a"}'
    headers = {**keyed("k"), "Content-Type": "application/json"}
    ok(await user.http.post("/v1/agents", content=body, headers=headers), 201)
    query = "SELECT key_id, fingerprint FROM idempotency WHERE user_id = :id"
    [row] = await harness.rows(query, id=user.id)
    request = b"POST /v1/agents\n" + body
    assert row["fingerprint"] == RESPONSE_KEYS.fingerprint(row["key_id"], request)
    others = ResponseKeys.parse(f"{row['key_id']}:{base64url(b'other' * 6 + b'ok')}")
    assert row["fingerprint"] != others.fingerprint(row["key_id"], request)
    assert row["fingerprint"] != hashlib.sha256(request).hexdigest()


@pytest.mark.accept("2.idempotency")
async def test_another_body_is_a_conflict(user: User) -> None:
    ok(await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed("k")), 201)
    other = await user.http.post("/v1/agents", json={"name": "b"}, headers=keyed("k"))
    assert problem(other, 409, "CONFLICT")["retryable"] is False


async def test_another_agents_request_under_the_key_is_a_conflict(user: User) -> None:
    one, other = await user.create(), await user.create()
    headers = keyed("k")
    ok(await user.http.post(f"/v1/agents/{one['id']}/disable", headers=headers))
    response = await user.http.post(f"/v1/agents/{other['id']}/disable", headers=headers)
    problem(response, 409, "CONFLICT")


async def test_a_key_belongs_to_its_user(harness: Harness, user: User) -> None:
    mine = ok(await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed("k")), 201)
    async with harness.user().http as other:
        theirs = ok(await other.post("/v1/agents", json={"name": "a"}, headers=keyed("k")), 201)
    assert mine["agent"]["id"] != theirs["agent"]["id"]


async def test_requests_at_once_make_one_agent(user: User) -> None:
    async def post() -> Any:
        return await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed("k"))

    answers = await asyncio.gather(*[post() for _ in range(10)])
    made = {a.json()["agent"]["id"] for a in answers if a.status_code == 201}
    assert len(made) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert problem(answer, 409, "CONFLICT")["retryable"] is True
    assert len(ok(await user.http.get("/v1/agents"))["agents"]) == 1


@pytest.mark.accept("2.key-held")
async def test_while_the_first_runs_the_key_is_held(harness: Harness, user: User) -> None:
    body = b'{"name":"a"}'
    key = IdempotencyKey.of(
        "k",
        user_id=user.id,
        route="POST /v1/agents",
        method="POST",
        path="/v1/agents",
        body=body,
        keys=RESPONSE_KEYS,
    )
    headers = {**keyed("k"), "Content-Type": "application/json"}
    with psycopg.connect(harness.dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key.lock,))
        held = await user.http.post("/v1/agents", content=body, headers=headers)
        assert problem(held, 409, "CONFLICT")["retryable"] is True
    ok(await user.http.post("/v1/agents", content=body, headers=headers), 201)


async def test_a_refusal_is_not_kept(user: User) -> None:
    taken = await user.create(name="a")
    body = {"name": "a"}
    problem(await user.http.post("/v1/agents", json=body, headers=keyed("k")), 409, "CONFLICT")
    ok(await user.http.delete(f"/v1/agents/{taken['id']}"))
    ok(await user.http.post("/v1/agents", json=body, headers=keyed("k")), 201)


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "a\tb"])
async def test_a_malformed_key_is_refused(user: User, key: str) -> None:
    response = await user.http.post("/v1/agents", json={"name": "a"}, headers=keyed(key))
    details = problem(response, 400, "INVALID_REQUEST")["details"]
    assert details["issues"][0]["path"] == ["Idempotency-Key"]


async def test_old_records_are_removed_and_young_ones_stay(own_harness: Harness) -> None:
    user = own_harness.user()
    for name in ("old", "young"):
        ok(await user.http.post("/v1/agents", json={"name": name}, headers=keyed(name)), 201)
    for table, time in (
        ("idempotency", "answered_at_ms"),
        ("idempotency_claims", "first_tried_at_ms"),
    ):
        aged = f"UPDATE {table} SET {time} = {time} - :age WHERE key = 'old'"
        assert await own_harness.execute(aged, age=KEPT_MS + 1) == 1
    await own_harness.service.kill()
    await own_harness.service.start()

    async def removed() -> bool:
        rows = await own_harness.rows(
            "SELECT key FROM idempotency UNION ALL SELECT key FROM idempotency_claims"
        )
        return [row["key"] for row in rows] == ["young", "young"]

    await eventually(removed, "the old record to be gone")


@pytest.mark.accept("A15")
@pytest.mark.parametrize(
    ("made", "kind", "route", "body", "status"),
    [
        ("agent", ids.AGENT, "/v1/agents", b'{"name":"a"}', 201),
        ("deployment", ids.DEPLOYMENT, "/v1/agents/{agentId}/deploy", b"{}", 202),
    ],
)
async def test_killed_before_the_commit_a_retry_makes_the_same_id(
    own_harness: Harness, made: str, kind: str, route: str, body: bytes, status: int
) -> None:
    harness, user = own_harness, own_harness.user()
    ok(await user.http.get("/v1/me"))
    path = route
    if made == "deployment":
        path = route.format(agentId=(await user.create())["id"])
    key = IdempotencyKey.of(
        "k",
        user_id=user.id,
        route=f"POST {route}",
        method="POST",
        path=path,
        body=body,
        keys=RESPONSE_KEYS,
    )
    headers = {**user.http.headers, **keyed("k"), "Content-Type": "application/json"}
    for _ in range(2):
        harness.crash_file.write_text("api.claimed")
        async with harness.client(**headers) as http:
            with pytest.raises(httpx.TransportError):
                await http.post(path, content=body)
        await harness.service.died()
        await harness.start()
    with psycopg.connect(harness.dsn) as connection:
        query = "SELECT first_tried_at_ms FROM idempotency_claims WHERE user_id = %s"
        [(first_tried_at_ms,)] = connection.execute(query, (user.id,)).fetchall()
        assert connection.execute(f"SELECT count(*) FROM {made}s".encode()).fetchone() == (0,)

    async with harness.client(**headers) as http:
        answer = ok(await http.post(path, content=body), status)[made]
    entropy = key.digest(kind)[: ids.ENTROPY_BYTES]
    assert answer["id"] == ids.new_id(kind, first_tried_at_ms, entropy)
    assert answer["createdAtMs"] > first_tried_at_ms
