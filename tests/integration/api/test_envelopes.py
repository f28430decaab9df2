"""Whatever is wrong with a request, the answer is the one envelope with the right code."""

from typing import Any

import httpx
import pytest
from webhost_contracts import subjects

from tests.integration.api.harness import ORIGIN, Harness, User, ok, problem


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x", "Bearer a.b.c", "Basic YTpi"],
)
async def test_without_a_good_token_nothing_is_told(
    harness: Harness, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with harness.client(**headers) as http:
        for method, path in (("GET", "/v1/me"), ("POST", "/v1/agents")):
            response = await http.request(method, path, content=b"not json")
            problem(response, 401, "UNAUTHENTICATED")
            assert response.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_is_refused(harness: Harness) -> None:
    late = harness.user("late", exp=1)
    problem(await late.http.get("/v1/me"), 401, "UNAUTHENTICATED")
    await late.http.aclose()


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b'"text"', b"{} {}"]
)
async def test_a_body_that_is_no_json_object_is_refused(user: User, body: bytes) -> None:
    response = await user.http.post(
        "/v1/agents", content=body, headers={"Content-Type": "application/json"}
    )
    assert "issues" in problem(response, 400, "INVALID_REQUEST")["details"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_called_json_is_refused(user: User, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    response = await user.http.post("/v1/agents", content=b'{"name": "a"}', headers=headers)
    problem(response, 400, "INVALID_REQUEST")


async def issue_paths(response: httpx.Response) -> list[Any]:
    return [i["path"] for i in problem(response, 400, "INVALID_REQUEST")["details"]["issues"]]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": "a", "nmae": "b"}, ["nmae"]),
        ({}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "  "}, ["name"]),
        ({"name": "a" * 81}, ["name"]),
        ({"name": 1}, ["name"]),
        ({"name": "a\x00"}, ["name"]),
        ({"name": "a", "description": "d" * 4001}, ["description"]),
        ({"name": "a", "envVarKeys": ["lower"]}, ["envVarKeys", 0]),
        ({"name": "a", "envVarKeys": ["A", "USER_ID"]}, ["envVarKeys", 1]),
        ({"name": "a", "envVarKeys": ["WEBHOST_X"]}, ["envVarKeys", 0]),
        ({"name": "a", "envVarKeys": ["A", "A"]}, ["envVarKeys"]),
        ({"name": "a", "envVarKeys": [f"A{n}" for n in range(51)]}, ["envVarKeys"]),
        ({"name": "a", "preferredRuntimeProvider": "lambda"}, ["preferredRuntimeProvider"]),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_field_of_an_agent_is_named(
    user: User, body: dict[str, Any], path: list[Any]
) -> None:
    assert path in await issue_paths(await user.http.post("/v1/agents", json=body))


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"moduleCode": ""}, ["moduleCode"]),
        ({"mainModuleName": "../a.mjs"}, ["mainModuleName"]),
        ({"mainModuleName": "a/../b.mjs"}, ["mainModuleName"]),
        ({"mainModuleName": "agent.ts"}, ["mainModuleName"]),
        ({"mainModuleName": "webhost-entry.mjs"}, ["mainModuleName"]),
        ({"invokePath": "invoke"}, ["invokePath"]),
        ({"invokePath": "/__webhost/probe"}, ["invokePath"]),
        ({"compatibilityDate": "2026-13-01"}, ["compatibilityDate"]),
        ({"setAsActive": "yes"}, ["setAsActive"]),
        ({"runtimeProvider": "lambda"}, ["runtimeProvider"]),
        ({"commitHash": "a b"}, ["commitHash"]),
    ],
    ids=str,
)
async def test_a_bad_field_of_a_deploy_is_named(
    user: User, body: dict[str, Any], path: list[Any]
) -> None:
    agent = await user.create()
    response = await user.http.post(f"/v1/agents/{agent['id']}/deploy", json=body)
    assert path in await issue_paths(response)


async def test_lone_surrogates_are_refused(user: User) -> None:
    response = await user.http.post(
        "/v1/agents",
        content=b'{"name": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    assert ["name"] in await issue_paths(response)
    agent = await user.create()
    response = await user.http.post(
        f"/v1/agents/{agent['id']}/deploy",
        content=b'{"moduleCode": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    assert ["moduleCode"] in await issue_paths(response)


@pytest.mark.parametrize(
    "query",
    ["limit=many", "cursor=made-up", "cursor=%00", "status=happy", "includeDeleted=perhaps"],
)
async def test_a_bad_query_parameter_is_named(user: User, query: str) -> None:
    assert [query.partition("=")[0]] in await issue_paths(
        await user.http.get(f"/v1/agents?{query}")
    )


async def test_unknown_query_parameters_are_ignored(user: User) -> None:
    ok(await user.http.get("/v1/agents?colour=green"))


@pytest.mark.accept("2.bounds")
@pytest.mark.accept("10")
async def test_bodies_are_bounded_before_they_are_parsed(user: User) -> None:
    agent = await user.create()
    deploy = f"/v1/agents/{agent['id']}/deploy"

    async def in_chunks(size: int) -> Any:
        for _ in range(size // 1024):
            yield b"x" * 1024

    for path, limit in (("/v1/agents", 64 * 1024), (deploy, 1024 * 1024)):
        json_type = {"Content-Type": "application/json"}
        too_big = await user.http.post(path, content=b"x" * (limit + 1), headers=json_type)
        problem(too_big, 413, "PAYLOAD_TOO_LARGE")
        chunked = await user.http.post(path, content=in_chunks(limit + 1024), headers=json_type)
        problem(chunked, 413, "PAYLOAD_TOO_LARGE")
        just_in = await user.http.post(path, content=b"x" * limit, headers=json_type)
        problem(just_in, 400, "INVALID_REQUEST")


async def test_a_module_of_half_a_mebibyte_is_deployed(user: User) -> None:
    agent = await user.create()
    code = "// ä\n" * 100_000
    deployment = await user.deploy(agent["id"], moduleCode=code)
    source = ok(await user.http.get(f"/v1/deployments/{deployment['id']}/source"))
    assert source["modules"][0]["content"] == code


@pytest.mark.accept("2.errors")
async def test_what_the_framework_refuses_has_the_envelope(user: User) -> None:
    for path in ("/", "/v1/nothing", "/v1/agents/", "/v1/agents/agt_x/nothing"):
        problem(await user.http.get(path), 404, "NOT_FOUND")
    response = await user.http.put("/v1/agents", json={})
    problem(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET, POST"
    response = await user.http.put("/v1/agents/agt_x", json={})
    problem(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET, PATCH, DELETE"


async def test_what_nobody_foresaw_tells_nothing_of_the_inside(
    harness: Harness, user: User
) -> None:
    agent = await user.create()
    deployment = await user.deploy(agent["id"], moduleCode="// only here")
    store = await harness.bus.js.object_store(subjects.ARTIFACTS_BUCKET)
    await store.put(deployment["artifact"]["checksum"], b'{"modules":[]}')
    response = await user.http.get(f"/v1/deployments/{deployment['id']}/source")
    error = problem(response, 500, "INTERNAL")
    assert error["message"] == "Something went wrong on our side."
    assert error["details"] == {}


async def test_strange_ids_are_not_found(user: User) -> None:
    for agent_id in ("x", "%00", "agt_" + "z" * 300, "ä", "' OR 1=1"):
        problem(await user.http.get(f"/v1/agents/{agent_id}"), 404, "NOT_FOUND")
        problem(await user.http.get(f"/v1/deployments/{agent_id}"), 404, "NOT_FOUND")
        problem(await user.http.post(f"/v1/agents/{agent_id}/deploy"), 404, "NOT_FOUND")
        problem(await user.http.delete(f"/v1/agents/{agent_id}"), 404, "NOT_FOUND")
        problem(await user.http.get(f"/v1/metrics/recent?agentId={agent_id}"), 404, "NOT_FOUND")


@pytest.mark.accept("2.request-id")
async def test_a_valid_request_id_is_kept_and_another_replaced(user: User) -> None:
    kept = await user.http.get("/v1/me", headers={"X-Request-Id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    replaced = await user.http.get("/v1/me", headers={"X-Request-Id": "a b" * 200})
    assert replaced.headers["x-request-id"].startswith("req_")


@pytest.mark.accept("2.cors")
async def test_cors_is_for_the_allowed_origins_only(harness: Harness, user: User) -> None:
    preflight = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, idempotency-key, traceparent",
    }
    async with harness.client() as http:
        allowed = await http.options("/v1/agents/x", headers={"Origin": ORIGIN, **preflight})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "PATCH" in allowed.headers["access-control-allow-methods"]
        refused = await http.options(
            "/v1/agents/x", headers={"Origin": "https://evil.example", **preflight}
        )
        problem(refused, 400, "INVALID_REQUEST")
        assert "access-control-allow-origin" not in refused.headers
        failed = await http.get("/v1/me", headers={"Origin": ORIGIN})
        problem(failed, 401, "UNAUTHENTICATED")
        assert failed.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-Id" in failed.headers["access-control-expose-headers"]
    other = await user.http.get("/v1/me", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
