"""For other users, user A's resources do not exist: the answer is the one for a missing id."""

from typing import Any

import httpx
import pytest

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack

MISSING = "zzzzzzzzzzzzzzzzzzzzzzzzzz"
INVOKE = {"input": {"prompt": "Let me in."}}


def routes_with_an_id(caller: Caller) -> list[tuple[str, str, Any]]:
    """Every route whose path names an id, with a body that it takes."""
    described = caller.http.get("/v1/openapi.json").json()["paths"]
    found: list[tuple[str, str, Any]] = [
        (method.upper(), path, body_of(method, path))
        for path, methods in described.items()
        for method in methods
        if "{" in path
    ]
    found.append(("GET", "/v1/metrics/recent?agentId={agentId}", None))
    return found


def body_of(method: str, path: str) -> Any:
    if path.startswith("/v1/invoke/"):
        return INVOKE
    return {"name": "stolen"} if method == "patch" else None


@pytest.mark.accept("5")
def test_nothing_of_another_user_can_be_found(stack: Stack) -> None:
    owner, other = stack.caller(), stack.caller()
    agent = owner.create_agent("private")
    deployment = owner.deploy(agent["id"])
    owner.invoke(agent["id"], "This is mine.")
    before = owner.agent(agent["id"])
    other.me()

    every = routes_with_an_id(other)
    assert {method for method, _, _ in every} == {"GET", "POST", "PATCH", "DELETE"}
    for method, path, body in every:
        foreign = path.format(agentId=agent["id"], deploymentId=deployment["id"])
        missing = path.format(agentId=f"agt_{MISSING}", deploymentId=f"dep_{MISSING}")
        refused = _refusal(other.http.request(method, foreign, json=body))
        assert refused["code"] == "NOT_FOUND", (method, path)
        assert refused == _refusal(other.http.request(method, missing, json=body)), (method, path)

    assert owner.agent(agent["id"]) == before
    assert owner.deployment(deployment["id"])["status"] == "active"
    assert owner.invoke(agent["id"], "Still here.")["output"]["text"] == "You said: Still here."
    # Not even the attempts were charged, to the owner or to the other user.
    until(lambda: len(owner.recent_calls()) >= 2, "the owner's calls to be counted", seconds=20)
    assert owner.usage()["usage"]["requests"] == 2
    assert other.usage()["usage"]["requests"] == 0


@pytest.mark.accept("5")
def test_lists_usage_and_metrics_show_nothing_of_another_user(stack: Stack) -> None:
    owner, other = stack.caller(), stack.caller()
    agent = owner.create_agent("private")
    owner.deploy(agent["id"])
    owner.invoke(agent["id"], "This is mine.")
    until(
        lambda: [event["source"] for event in owner.recent_calls()] == ["both"],
        "the owner's call to be counted",
        seconds=20,
    )
    other_agent = other.create_agent("private")

    listed = other.http.get("/v1/agents?includeDeleted=true&limit=100").json()["agents"]
    assert [found["id"] for found in listed] == [other_agent["id"]]
    assert other.recent_calls() == []
    used = other.usage()["usage"]
    assert used["userId"] == other.me()["id"]
    names = {"requests", "llmTokens", "computeMs", "toolCalls", "errors", "costUsdEstimated"}
    assert {name: used[name] for name in names} == dict.fromkeys(names, 0)


def _refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 404, f"{response.request.url}: {response.text}"
    error = response.json()["error"]
    del error["requestId"]
    return error
