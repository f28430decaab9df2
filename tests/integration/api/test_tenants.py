"""What is someone else's answers exactly as what does not exist, on every route."""

from typing import Any

import pytest

from tests.integration.api.harness import Harness, User, ok, problem

MISSING = "zzzzzzzzzzzzzzzzzzzzzzzzzz"
ROUTES = [
    ("GET", "/v1/agents/{agent}"),
    ("PATCH", "/v1/agents/{agent}"),
    ("DELETE", "/v1/agents/{agent}"),
    ("POST", "/v1/agents/{agent}/disable"),
    ("POST", "/v1/agents/{agent}/enable"),
    ("POST", "/v1/agents/{agent}/deploy"),
    ("POST", "/v1/agents/{agent}/deployments"),
    ("GET", "/v1/agents/{agent}/deployments"),
    ("POST", "/v1/agents/{agent}/deployments/{deployment}/activate"),
    ("GET", "/v1/deployments/{deployment}"),
    ("GET", "/v1/deployments/{deployment}/source"),
    ("DELETE", "/v1/keys/{key}"),
    ("POST", "/v1/keys/{key}/rotate"),
    ("GET", "/v1/metrics/recent?agentId={agent}"),
]


async def refused(user: User, method: str, path: str) -> dict[str, Any]:
    body = {"name": "stolen"} if method == "PATCH" else None
    error = problem(await user.http.request(method, path, json=body), 404, "NOT_FOUND")
    del error["requestId"]
    return error


@pytest.mark.accept("5")
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_foreign_id_is_not_found(
    harness: Harness, user: User, method: str, path: str
) -> None:
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    key = await user.key()
    before = await user.agent(agent["id"])
    async with (other := harness.user()).http:
        mine = {"agent": agent["id"], "deployment": deployment["id"], "key": key.id}
        foreign = path.format(**mine)
        missing = path.format(**{name: f"{i[:3]}_{MISSING}" for name, i in mine.items()})
        assert await refused(other, method, foreign) == await refused(other, method, missing)
        assert ok(await other.http.get("/v1/agents"))["agents"] == []
    assert await user.agent(agent["id"]) == before


async def test_every_route_with_an_id_is_in_the_list(user: User) -> None:
    document = ok(await user.http.get("/v1/openapi.json"))
    routes = {
        (method.upper(), path.replace("Id}", "}"))
        for path, methods in document["paths"].items()
        for method in methods
        if "{" in path and not path.startswith("/v1/invoke/")
    }
    assert routes == {(method, path) for method, path in ROUTES if "?" not in path}


async def test_ones_own_deployment_of_another_agent_is_not_found(user: User) -> None:
    one, other = await user.create(), await user.create()
    deployment = await user.deploy(one["id"])
    path = f"/v1/agents/{other['id']}/deployments/{deployment['id']}/activate"
    problem(await user.http.post(path), 404, "NOT_FOUND")
