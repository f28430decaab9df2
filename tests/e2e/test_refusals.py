"""What is wrong is refused, with the right envelope, which says where."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from webhost_contracts.signatures import TELEMETRY_DEPLOYMENT_HEADER, TELEMETRY_SIGNATURE_HEADER

from tests.support.caller import Caller
from tests.support.stack import Stack

KIB = 1024
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Caller:
    return stack.caller()


@pytest.fixture(scope="module")
def agent_id(caller: Caller) -> str:
    agent = caller.create_agent("refusing")
    caller.deploy(agent["id"])
    caller.invoke(agent["id"], "Until a gateway knows the agent.")
    return agent["id"]


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the envelope; return its inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    [(name, error)] = response.json().items()
    assert name == "error"
    assert set(error) == {"code", "message", "retryable", "details", "requestId"}
    assert error["code"] == code
    assert error["message"]
    assert error["retryable"] is False
    assert error["requestId"] == response.headers["x-request-id"]
    return error


ENDPOINTS = [
    "/v1/agents",
    "/v1/agents/{agent}/deploy",
    "/v1/invoke/{agent}",
    "/v1/invoke/{agent}/stream",
]
"""One endpoint of each kind: the api's, with its two bounds, and the gateway's two."""


@pytest.mark.accept("10")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer not.a.token", "Basic YTpi"])
def test_a_bad_token(stack: Stack, agent_id: str, endpoint: str, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token}
    url = stack.origin + endpoint.format(agent=agent_id)
    answer = httpx.post(url, json={"input": {"prompt": "Hello"}}, headers=headers)
    problem(answer, 401, "UNAUTHENTICATED")


@pytest.mark.accept("10")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_token_whose_signature_was_tampered_with(
    stack: Stack, caller: Caller, agent_id: str, endpoint: str
) -> None:
    head, _, signature = caller.token.rpartition(".")
    tampered = f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    url = stack.origin + endpoint.format(agent=agent_id)
    answer = httpx.post(url, json={}, headers={"Authorization": f"Bearer {tampered}"})
    problem(answer, 401, "UNAUTHENTICATED")


@pytest.mark.accept("10")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'{"name": NaN}'])
def test_bad_json(caller: Caller, agent_id: str, endpoint: str, body: bytes) -> None:
    answer = caller.http.post(endpoint.format(agent=agent_id), content=body, headers=JSON)
    assert problem(answer, 400, "INVALID_REQUEST")["details"]["issues"]


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    ("endpoint", "limit"),
    [
        ("/v1/agents", 64 * KIB),
        ("/v1/agents/{agent}/deploy", KIB * KIB),
        ("/v1/invoke/{agent}", KIB * KIB),
        ("/v1/invoke/{agent}/stream", KIB * KIB),
        ("/v1/telemetry/report", 64 * KIB),
    ],
)
def test_an_oversized_body(caller: Caller, agent_id: str, endpoint: str, limit: int) -> None:
    path, body = endpoint.format(agent=agent_id), b'{"name":"' + b"x" * (limit - 10) + b'"}'
    assert len(body) == limit + 1
    # The telemetry endpoint wants its own headers before it looks at a body.
    unverified = {TELEMETRY_DEPLOYMENT_HEADER: "dep_x", TELEMETRY_SIGNATURE_HEADER: "v1=0"}

    def post(content: bytes | Iterator[bytes]) -> httpx.Response:
        return caller.http.post(path, content=content, headers=JSON | unverified)

    problem(post(body), 413, "PAYLOAD_TOO_LARGE")
    # In pieces, so that no header tells the length in advance.
    pieces = (body[at : at + 4096] for at in range(0, len(body), 4096))
    problem(post(pieces), 413, "PAYLOAD_TOO_LARGE")
    assert post(body[:-1]).status_code in (400, 401)


@pytest.mark.accept("2.unknown-fields")
@pytest.mark.accept("10")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_unknown_field_is_named(caller: Caller, agent_id: str, endpoint: str) -> None:
    body = {"input": {"prompt": "Hello"}} if "invoke" in endpoint else {"name": "known"}
    if endpoint.endswith("deploy"):
        body = {}
    answer = caller.http.post(endpoint.format(agent=agent_id), json=body | {"typo": 1})
    issues = problem(answer, 400, "INVALID_REQUEST")["details"]["issues"]
    assert ["typo"] in [issue["path"] for issue in issues]


@pytest.mark.accept("10")
def test_an_unknown_address_and_a_wrong_method(caller: Caller, agent_id: str) -> None:
    problem(caller.http.get("/v1/nothing"), 404, "NOT_FOUND")
    problem(caller.http.get("/"), 404, "NOT_FOUND")
    problem(caller.http.delete("/v1/me"), 405, "METHOD_NOT_ALLOWED")
    problem(caller.http.get(f"/v1/invoke/{agent_id}"), 405, "METHOD_NOT_ALLOWED")
    problem(caller.http.get("/v1/telemetry/report"), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    ("module", "step", "message"),
    [
        ("export default { async invoke( { return 'x'; } };", "upload", "SyntaxError"),
        ("throw new Error('cannot begin');\nexport default {};", "upload", "cannot begin"),
        ("import { x } from './absent.mjs';\nexport default { x };", "upload", "absent.mjs"),
        ("export default { name: 'no handler' };", "probe", "neither invoke() nor fetch()"),
    ],
    ids=["syntax error", "throws at its top", "missing import", "no handler"],
)
def test_a_broken_module_fails_its_deployment(
    stack: Stack, module: str, step: str, message: str
) -> None:
    caller = stack.caller()
    agent = caller.create_agent()
    good = caller.deploy(agent["id"])
    began = caller.start_deploy(agent["id"], moduleCode=module, mainModuleName="broken.mjs")
    failed = caller.deploy_ended(began["id"])
    assert failed["status"] == "failed"
    error = failed["error"]
    assert error["code"] == "DEPLOYMENT_FAILED"
    details = error["details"]
    assert details["step"] == step
    assert re.match(r"(PUT|POST) ", details["endpoint"])
    assert message in details["providerMessage"]
    assert failed["errorMessage"] == error["message"]
    agent = caller.agent(agent["id"])
    assert (agent["status"], agent["activeDeploymentId"]) == ("active", good["id"])
    assert caller.invoke(agent["id"], "Still?")["output"]["text"] == "You said: Still?"
