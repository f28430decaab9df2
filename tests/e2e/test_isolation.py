"""For other users, user A's resources do not exist: the answer is the one for a missing id.

Generated from the document: a route that is added is tried by itself, with its examples for bodies.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.caller import Caller
from tests.support.credentials import Credential, credentials
from tests.support.deadline import until
from tests.support.openapi import OPERATIONS, Operation
from tests.support.stack import Stack

MISSING = "zzzzzzzzzzzzzzzzzzzzzzzzzz"
PREFIXES = {"agentId": "agt", "deploymentId": "dep"}
"""Of the kinds of ids; one of another kind is its first three letters."""
NO_IDS = {"key": "OPENAI_API_KEY"}
"""What else is in paths: names of users' own."""
TIMED = 200
ALIKE = 0.2

Ids = dict[str, str]


@dataclass
class Tenants:
    """The owner of an agent that answers, another user with an agent of their own; their ids."""

    owner: Caller
    other: Caller
    ids: Ids
    others_ids: Ids
    bad: list[Credential]


@pytest.fixture(scope="module")
def tenants(stack: Stack) -> Tenants:
    owner, other = stack.caller("the owner"), stack.caller("the other")
    agent, others_agent = owner.create_agent("private"), other.create_agent("private")
    deployment = owner.deploy(agent["id"])
    others_deployment = other.start_deploy(others_agent["id"])
    owner.invoke(agent["id"], "This is mine.")
    other.deploy_ended(others_deployment["id"])
    return Tenants(
        owner,
        other,
        {"agentId": agent["id"], "deploymentId": deployment["id"], "keyId": key_of(owner)},
        {
            "agentId": others_agent["id"],
            "deploymentId": others_deployment["id"],
            "keyId": key_of(other),
        },
        credentials(stack, "the owner"),
    )


def key_of(caller: Caller) -> str:
    """The id of a new API key of theirs."""
    made = caller.http.post("/v1/keys", json={"name": "private", "scopes": ["invoke"]})
    assert made.status_code == 201, made.text
    return made.json()["key"]["id"]


def missing(names: list[str]) -> Ids:
    made = {name: f"{PREFIXES.get(name, name[:3])}_{MISSING}" for name in names}
    return made | {name: value for name, value in NO_IDS.items() if name in names}


def named(operation: Operation) -> list[str]:
    """Every id that it takes, in the path or the query."""
    parameters = operation.described.get("parameters", ())
    in_query = [it["name"] for it in parameters if it["in"] == "query"]
    return [*operation.names, *(name for name in in_query if name.endswith("Id"))]


def send(http: httpx.Client, operation: Operation, ids: Ids, **kwargs: Any) -> httpx.Response:
    """Send an operation with these ids; of an answer without an end the head alone is read."""
    filled = {name: ids.get(name, value) for name, value in missing(operation.names).items()}
    query = {name: value for name, value in ids.items() if name not in operation.names}
    if operation.body is not None:
        content_type, example = operation.body
        if content_type == "application/json":
            kwargs["json"] = example
        else:
            kwargs["content"] = str(example).encode()
            kwargs["headers"] = {"Content-Type": content_type} | kwargs.get("headers", {})
    path = operation.path.format(**filled)
    with http.stream(operation.method, path, params=query or None, **kwargs) as response:
        if response.status_code != 200:
            response.read()
    return response


def foreign(operation: Operation, tenants: Tenants) -> Iterator[tuple[Ids, Ids]]:
    """Ids of which one or all are the owner's and the rest the other's, and likewise missing."""
    names = [name for name in named(operation) if name in tenants.ids]
    for chosen in [names, *([name] for name in names if len(names) > 1)]:
        own = {name: tenants.others_ids[name] for name in names}
        yield (
            own | {name: tenants.ids[name] for name in chosen},
            own | missing(chosen),
        )


WITH_IDS = tuple(it for it in OPERATIONS if it.takes_a_token and named(it))


def test_no_kind_of_id_is_left_out(tenants: Tenants) -> None:
    assert {name for it in OPERATIONS for name in named(it)} == {*tenants.ids, *NO_IDS}


@pytest.mark.accept("7.isolation")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_bad_credential_learns_nothing(
    stack: Stack, tenants: Tenants, operation: Operation
) -> None:
    with httpx.Client(base_url=stack.origin, timeout=20) as http:
        for bad in tenants.bad:
            headers = {} if bad.header is None else {"Authorization": bad.header}
            there, gone = (
                _refusal(send(http, operation, ids, headers=headers), bad)
                for ids in (tenants.ids, missing(named(operation)))
            )
            assert there == gone, bad.name
            assert there["details"] == {}, bad.name


@pytest.mark.accept("5")
@pytest.mark.accept("7.isolation")
def test_nothing_of_another_user_can_be_found(tenants: Tenants) -> None:
    owner, other, ids = tenants.owner, tenants.other, tenants.ids
    before = owner.agent(ids["agentId"])
    charged = other.usage()["usage"]["requests"]

    assert {it.method for it in WITH_IDS} == {"GET", "POST", "PATCH", "DELETE"}
    for operation in WITH_IDS:
        for theirs, none in foreign(operation, tenants):
            refused = _not_found(send(other.http, operation, theirs))
            assert refused["code"] == "NOT_FOUND", operation
            assert refused == _not_found(send(other.http, operation, none)), (operation, theirs)

    assert owner.agent(ids["agentId"]) == before
    assert owner.deployment(ids["deploymentId"])["status"] == "active"
    said = owner.invoke(ids["agentId"], "Still here.")["output"]["text"]
    assert said == "You said: Still here."
    # Not even the attempts were charged, to the owner or to the other user.
    until(lambda: len(owner.recent_calls()) >= 2, "the owner's calls to be counted", seconds=20)
    assert owner.usage()["usage"]["requests"] == 2
    assert other.usage()["usage"]["requests"] == charged == 0


@pytest.mark.accept("7.isolation")
@pytest.mark.long
@pytest.mark.quiet
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", WITH_IDS, ids=str)
def test_time_does_not_tell_a_foreign_id_from_a_missing_one(
    tenants: Tenants, operation: Operation
) -> None:
    for theirs, none in foreign(operation, tenants):
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(TIMED):
            for times, ids in zip(took, (theirs, none), strict=True):
                started = time.perf_counter()
                response = send(tenants.other.http, operation, ids)
                times.append(time.perf_counter() - started)
                while response.status_code == 429:
                    time.sleep(int(response.headers["Retry-After"]))
                    started = time.perf_counter()
                    response = send(tenants.other.http, operation, ids)
                    times[-1] = time.perf_counter() - started
                assert response.status_code == 404, response.text
        one, two = map(statistics.median, took)
        print(f"{operation}: {one * 1000:.2f} ms foreign, {two * 1000:.2f} ms missing")
        assert abs(one - two) <= ALIKE * max(one, two)


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
    series = (
        "/v1/usage/series",
        f"/v1/agents/{other_agent['id']}/metrics",
        "/v1/billing/invoice",
    )
    for path in series:
        said = other.http.get(path)
        assert agent["id"] not in said.text
        answered = said.json()
        assert not any(point["requests"] for point in answered.get("series", ())), path
        assert answered.get("invoice", {"lines": []})["lines"] == []
    hours = owner.http.get(f"/v1/agents/{agent['id']}/metrics").json()["series"]
    assert sum(hour["requests"] for hour in hours) == 1
    used = other.usage()["usage"]
    assert used["userId"] == other.me()["id"]
    names = {"requests", "llmTokens", "computeMs", "toolCalls", "errors", "costUsdEstimated"}
    assert {name: used[name] for name in names} == dict.fromkeys(names, 0)


def _not_found(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 404, f"{response.request.url}: {response.status_code}"
    return _error_of(response)


def _refusal(response: httpx.Response, bad: Credential) -> dict[str, Any]:
    status, code = bad.refused
    assert response.status_code == status, f"{bad.name}: {response.request.url}"
    error = _error_of(response)
    assert error["code"] == code, bad.name
    return error


def _error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].pop("requestId") == response.headers["X-Request-Id"]
    return body["error"]
