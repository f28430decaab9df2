"""An API key opens what its scopes and its agents say, and tells nothing of the rest.

Generated from the document; what each operation needs is the tests' own list, which has to name
every operation.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from webhost_contracts.api_keys import SCOPES

from tests.e2e.test_isolation import NO_IDS, Ids, missing, named, send
from tests.support.bundles import good_files, zipped
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.openapi import DOCUMENT, OPERATIONS, Operation
from tests.support.stack import Stack

A_JWT = "a JWT"
NEEDS = {
    "GET /v1/agents": "read",
    "POST /v1/agents": "admin",
    "GET /v1/agents/{agentId}": "read",
    "PATCH /v1/agents/{agentId}": "admin",
    "DELETE /v1/agents/{agentId}": "admin",
    "POST /v1/agents/{agentId}/disable": "admin",
    "POST /v1/agents/{agentId}/enable": "admin",
    "POST /v1/agents/{agentId}/deploy": "deploy",
    "GET /v1/agents/{agentId}/deployments": "read",
    "POST /v1/agents/{agentId}/deployments": "deploy",
    "POST /v1/agents/{agentId}/deployments/{deploymentId}/activate": "deploy",
    "GET /v1/agents/{agentId}/events": "read",
    "GET /v1/agents/{agentId}/metrics": "read",
    "GET /v1/agents/{agentId}/secrets": "secrets",
    "POST /v1/agents/{agentId}/secrets": "secrets",
    "DELETE /v1/agents/{agentId}/secrets/{key}": "secrets",
    "GET /v1/audit": "read",
    "GET /v1/billing/invoice": "read",
    "GET /v1/billing/invoice.html": "read",
    "POST /v1/billing/checkout": "admin",
    "GET /v1/billing/subscription": "read",
    "GET /v1/billing/tiers": "read",
    "GET /v1/billing/usage": "read",
    "GET /v1/deployments/{deploymentId}": "read",
    "GET /v1/deployments/{deploymentId}/logs": "read",
    "GET /v1/deployments/{deploymentId}/source": "read",
    "POST /v1/invoke/{agentId}": "invoke",
    "POST /v1/invoke/{agentId}/stream": "invoke",
    "GET /v1/keys": "read",
    "POST /v1/keys": A_JWT,
    "DELETE /v1/keys/{keyId}": A_JWT,
    "POST /v1/keys/{keyId}/rotate": A_JWT,
    "GET /v1/me": "read",
    "GET /v1/metrics/recent": "read",
    "GET /v1/templates": "read",
    "POST /v1/uploads": "deploy",
    "GET /v1/usage/current": "read",
    "GET /v1/usage/series": "read",
}
"""The scope that a key needs for each operation of users."""

SIGNED = {
    *("POST /v1/delegated/invoke/{agentId}", "POST /v1/telemetry/report"),
    "POST /v1/billing/webhook",
    "GET /v1/operator/usage-events",
}
"""What no user calls, with whatever."""

STREAMS = {"GET /v1/agents/{agentId}/events", "POST /v1/invoke/{agentId}/stream"}
"""What answers with server-sent events, and is tried like the rest."""

OPEN = {
    *("GET /v1/agents", "GET /v1/me", "GET /v1/templates", "POST /v1/uploads"),
    "GET /v1/billing/tiers",
}
"""What a key of some agents may do that is not about one agent."""
BY_AGENT = {"GET /v1/metrics/recent"}
"""What such a key may do only where the query names one of its agents."""

IN_BODIES = {
    ("POST /v1/agents/{agentId}/deploy", "uploadId"),
    ("POST /v1/agents/{agentId}/deployments", "uploadId"),
    ("POST /v1/keys", "agentIds"),
    ("POST /v1/invoke/{agentId}", "sessionId"),
    ("POST /v1/invoke/{agentId}/stream", "sessionId"),
}
"""The ids that bodies name."""
OF_THE_CALLER = {"traceId"}
"""What looks like one, and is the caller's own."""

BY_USERS = tuple(it for it in OPERATIONS if it.takes_a_token)


@dataclass
class Keyed:
    """A user with two agents, and keys: one of each scope, and one of the second agent alone."""

    user: Caller
    closed: Ids
    """The ids of what the limited key is not for."""
    own: Ids
    scoped: dict[str, httpx.Client]
    limited: httpx.Client
    stack: Stack


@pytest.fixture(scope="module")
def keyed(stack: Stack) -> Iterator[Keyed]:
    user = stack.unlimited_caller("the owner of keys")
    names = ("closed to the key", "open to the key")
    agents = [user.create_agent(name, envVarKeys=[NO_IDS["key"]]) for name in names]
    closed, own = (
        {"agentId": agent["id"], "deploymentId": user.deploy(agent["id"])["id"]} for agent in agents
    )
    clients = {scope: key(stack, user, scopes=[scope]) for scope in SCOPES}
    limited = key(stack, user, scopes=["admin"], agentIds=[own["agentId"]])
    closed["keyId"] = own["keyId"] = key_id(user)
    yield Keyed(user, closed, own, clients, limited, stack)
    for client in (*clients.values(), limited):
        client.close()


def key(stack: Stack, user: Caller, **fields: Any) -> httpx.Client:
    """Requests with a new key of the user's, once every gateway knows it."""
    answer = user.http.post("/v1/keys", json={"name": "one", **fields})
    assert answer.status_code == 201, answer.text
    header = {"Authorization": f"Bearer {answer.json()['token']}"}
    client = httpx.Client(base_url=stack.origin, headers=header, timeout=20)
    for gateway in stack.gateways():
        path = f"{gateway}/v1/invoke/agt_unknown"
        until(lambda path=path: client.post(path).status_code != 401, "a gateway to know the key")
    return client


def key_id(user: Caller) -> str:
    answer = user.http.post("/v1/keys", json={"name": "another", "scopes": ["read"]})
    return answer.json()["key"]["id"]


def sent(http: httpx.Client, operation: Operation, ids: Ids) -> httpx.Response:
    """The answer, which is not that there were too many requests."""
    while (response := send(http, operation, ids)).status_code == 429:
        time.sleep(int(response.headers["Retry-After"]))
    return response


def body_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert body["error"].pop("requestId") == response.headers["X-Request-Id"]
    return body


def is_refused_for_scope(response: httpx.Response) -> bool:
    if response.status_code != 403:
        return False
    error = body_of(response)["error"]
    return (error["code"], error["details"]) == ("UNAUTHORIZED", {"reason": "scope"})


def test_the_lists_name_every_operation() -> None:
    assert {*NEEDS} == {str(it) for it in BY_USERS}
    assert {str(it) for it in OPERATIONS if not it.takes_a_token} == SIGNED
    assert {*NEEDS} >= OPEN | BY_AGENT
    assert {str(it) for it in OPERATIONS if it.streams} == STREAMS
    assert {*NEEDS.values()} == {*SCOPES, A_JWT}


@pytest.mark.accept("7.isolation")
@pytest.mark.parametrize("operation", BY_USERS, ids=str)
def test_a_key_of_another_scope_opens_nothing(keyed: Keyed, operation: Operation) -> None:
    needed = NEEDS[str(operation)]
    names = named(operation)
    for scope, http in keyed.scoped.items():
        if scope == needed or (scope == "admin" and needed != A_JWT):
            response = sent(http, operation, missing(names))
            assert response.status_code not in (401, 403), (scope, response.status_code)
            continue
        there, gone = (
            sent(http, operation, ids)
            for ids in ({name: keyed.own[name] for name in names if name in keyed.own}, {})
        )
        assert is_refused_for_scope(there), (scope, there.status_code)
        assert is_refused_for_scope(gone), (scope, gone.status_code)
        assert there.status_code == gone.status_code


@pytest.mark.accept("7.isolation")
@pytest.mark.parametrize("operation", BY_USERS, ids=str)
def test_for_a_key_of_one_agent_another_is_not_there(keyed: Keyed, operation: Operation) -> None:
    names = [name for name in named(operation) if name in ("agentId", "deploymentId")]
    name = str(operation)
    if names and (operation.names or name in BY_AGENT):
        for chosen in [names, *([one] for one in names if len(names) > 1)]:
            own = {each: keyed.own[each] for each in names}
            theirs = sent(
                keyed.limited, operation, own | {each: keyed.closed[each] for each in chosen}
            )
            none = sent(keyed.limited, operation, own | missing(chosen))
            assert theirs.status_code == none.status_code == 404, (theirs.status_code, chosen)
            assert body_of(theirs) == body_of(none)
    if not operation.names:
        ids = {} if name in BY_AGENT else {each: keyed.closed[each] for each in names}
        if name not in OPEN:
            assert is_refused_for_scope(sent(keyed.limited, operation, ids)), name
            return
        response = keyed.limited.request(operation.method, operation.path)
        assert response.status_code != 403
        for hidden in (*keyed.closed.values(), "closed to the key"):
            assert hidden not in response.text
    elif "keyId" in operation.names:
        assert is_refused_for_scope(sent(keyed.limited, operation, keyed.closed))


@pytest.mark.accept("7.isolation")
def test_the_closed_agent_is_as_it_was(keyed: Keyed) -> None:
    agent = keyed.user.agent(keyed.closed["agentId"])
    assert agent["name"] == "closed to the key"
    assert agent["activeDeploymentId"] == keyed.closed["deploymentId"]
    assert keyed.user.invoke(agent["id"], "Hi.")["output"]["text"] == "You said: Hi."


@pytest.mark.accept("7.isolation")
@pytest.mark.parametrize("operation", [it for it in OPERATIONS if not it.takes_a_token], ids=str)
def test_what_is_signed_takes_no_credential_of_a_user(keyed: Keyed, operation: Operation) -> None:
    for http in (keyed.user.http, *keyed.scoped.values()):
        response = sent(http, operation, keyed.own)
        assert (response.status_code, body_of(response)["error"]["code"]) == (
            401,
            "UNAUTHENTICATED",
        )


def ids_in_bodies() -> set[tuple[str, str]]:
    """Every property of a body, of a user's operation, that is named like an id."""
    found: set[tuple[str, str]] = set()
    for operation in BY_USERS:
        content = operation.described.get("requestBody", {}).get("content", {})
        for media in content.values():
            for name in _properties(media["schema"]):
                if name.endswith(("Id", "Ids")) and name not in OF_THE_CALLER:
                    found.add((str(operation), name))
    return found


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        known = cast(dict[str, Any], schema)
        if "$ref" in known:
            named_schema = known["$ref"].rpartition("/")[2]
            yield from _properties(DOCUMENT["components"]["schemas"][named_schema])
        yield from known.get("properties", ())
        for inner in (*known.get("properties", {}).values(), *known.values()):
            yield from _properties(inner)
    elif isinstance(schema, list):
        for inner in cast(list[Any], schema):
            yield from _properties(inner)


@pytest.mark.accept("7.isolation")
def test_an_id_of_anothers_in_a_body_is_as_one_that_is_not_there(
    keyed: Keyed, stack: Stack
) -> None:
    assert ids_in_bodies() == IN_BODIES
    other = stack.caller("with bodies")
    agent_id = other.create_agent("with bodies")["id"]
    other.deploy(agent_id)
    other.invoke(agent_id, "Hi.")
    [upload] = [it for it in OPERATIONS if str(it) == "POST /v1/uploads"]
    assert upload.body is not None
    content_type, _ = upload.body
    archive = zipped(good_files())
    made = keyed.user.http.post(
        "/v1/uploads", content=archive, headers={"Content-Type": content_type}
    )
    theirs: dict[str, Any] = {
        "uploadId": made.json()["upload"]["id"],
        "agentIds": [keyed.own["agentId"]],
        "sessionId": keyed.user.invoke(keyed.own["agentId"], "Hi.")["sessionId"],
    }
    gone: dict[str, Any] = {
        "uploadId": "upl_" + "z" * 26,
        "agentIds": ["agt_" + "z" * 26],
        "sessionId": theirs["sessionId"][:-8] + "zzzzzzzz",
    }
    for name, field in sorted(IN_BODIES):
        method, _, path = name.partition(" ")
        rest: dict[str, Any] = {"input": {"prompt": "x"}} if field == "sessionId" else {}
        if field == "agentIds":
            rest = {"name": "theirs", "scopes": ["invoke"]}
        answers = [
            other.http.request(
                method, path.format(agentId=agent_id), json=rest | {field: given[field]}
            )
            for given in (theirs, gone)
        ]
        assert {answer.status_code for answer in answers} <= {400, 404, 502}, (name, answers)
        bodies = [body_of(answer) for answer in answers]
        assert bodies[0] == bodies[1], name
