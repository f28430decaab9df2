"""Whatever is sent to an operation of the document, the answer is one that the document describes.

Positive and negative data from schemathesis, through the public origin of a running stack. A route
that is added is tried by itself. Ids that it takes come from `World.ids`, signatures from
`World.prepare`.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests import Request, Session
from schemathesis import Case, GenerationMode
from schemathesis.checks import negative_data_rejection
from schemathesis.core.parameters import ParameterLocation
from webhost_contracts.signatures import (
    DELEGATION_SIGNATURE_HEADER,
    DELEGATION_SOURCE_HEADER,
    DELEGATION_TIMESTAMP_HEADER,
    TELEMETRY_DEPLOYMENT_HEADER,
    delegation_signature,
)
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity

from tests.support.bundles import good_files, zipped
from tests.support.caller import Caller
from tests.support.keys import StackKeys
from tests.support.openapi import DOCUMENT, OPERATIONS, Operation
from tests.support.stack import DELEGATION_SECRET, DELEGATION_SOURCE, Stack

SUBJECT = "the one who tries"
DECLARED = "OPENAI_API_KEY"
FEW, MANY = 3, 100
"""Examples for each operation, of positive and of negative data each."""
LONGEST_WAIT_S = 60

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
# Refused for what is the case, not for their shape: by the plan, or by what is there.
SCHEMA.config.checks.positive_data_acceptance.expected_statuses = [
    *("2xx", "401", "402", "403", "404", "409", "429", "502"),
]
SCHEMA.config.checks.negative_data_rejection.expected_statuses = ["400", "401", "403", "404", "409"]
# Statuses are compared below: what is away may be answered 503, as it is described.
SCHEMA.config.checks.not_a_server_error.expected_statuses = ["2xx", "4xx", "502", "503", "504"]


@dataclass
class World:
    """A user with an agent that answers, and what operations need of it."""

    stack: Stack
    caller: Caller
    keys: StackKeys
    ids: dict[str, str]
    """Of each kind of id in a path, one that exists."""
    reported: dict[str, str]
    """What telemetry about the deployment says of it."""
    session: Session = field(default_factory=Session)
    spare: str = ""

    def of(self, operation: Operation) -> dict[str, str]:
        """The ids for one operation; what it deletes is nothing that others use."""
        found = {name: self.ids[name] for name in operation.names if name in self.ids}
        match str(operation):
            case "DELETE /v1/agents/{agentId}" | "PATCH /v1/agents/{agentId}":
                found["agentId"] = self._spare_agent()
            case "DELETE /v1/keys/{keyId}":
                found["keyId"] = self.spare_key()
            case _ if operation.path.endswith("/activate"):
                found["deploymentId"] = self.caller.agent(self.ids["agentId"])["activeDeploymentId"]
            case _:
                pass
        return found

    def prepare(self, case: Case) -> None:
        """Write numbers as JavaScript does, and sign what must be signed.

        Of positive data make what a schema cannot say: no cursor of our own, no end in the past, a
        span of few buckets, an archive, a name that the agent declares, a user and a deployment of
        ours.
        """
        if case.meta is not None and case.meta.generation.mode.is_positive:
            for cursor in ("cursor", "after"):
                (case.query or {}).pop(cursor, None)
            if isinstance(case.body, dict) and case.body.get("expiresAtMs") is not None:
                case.body["expiresAtMs"] = round(time.time() * 1000) + 3_600_000
            if case.path == "/v1/telemetry/report" and isinstance(case.body, dict):
                case.body |= self.reported | {"timestampMs": round(time.time() * 1000)}
            if case.path.startswith("/v1/delegated/") and isinstance(case.body, dict):
                case.body["delegation"]["externalUserId"] = SUBJECT
            if case.path.endswith(("/metrics", "/usage/series")) and case.query:
                case.query |= {
                    name: str(round(time.time() * 1000) - before_ms)
                    for name, before_ms in (("fromMs", 7_200_000), ("toMs", 3_600_000))
                    if name in case.query
                }
            if case.path == "/v1/billing/checkout" and isinstance(case.body, dict):
                case.body = {"tier": "pro"}
            if case.path == "/v1/billing/webhook":
                case.body = {
                    "meta": {"event_name": "order_created"},
                    "data": {"type": "orders", "id": "1", "attributes": {}},
                }
            if case.path == "/v1/uploads":
                case.body = zipped(good_files())
            if (
                case.method == "PATCH"
                and isinstance(case.body, dict)
                and case.body.get("envVarKeys")
            ):
                case.body["envVarKeys"] = [DECLARED]
            if case.path.endswith("/secrets") and isinstance(case.body, dict):
                case.body = {"secrets": {DECLARED: next(iter(case.body["secrets"].values()))}}
        if isinstance(case.body, dict | list):
            case.body = _whole_numbers(case.body)
        if _has_wrong_headers(case):
            return
        if case.path == "/v1/telemetry/report" and case.method == "POST":
            headers = {TELEMETRY_DEPLOYMENT_HEADER: self.ids["deploymentId"]}
            case.headers = {**(case.headers or {}), **headers}
            case.headers |= self.keys.report_headers(self.ids["deploymentId"], self._sent(case))
        if case.path == "/v1/billing/webhook" and case.method == "POST":
            case.headers = {**(case.headers or {})}
            case.headers |= self.keys.webhook_headers(self._sent(case))
        if case.path.startswith("/v1/delegated/") and case.method == "POST":
            headers = {
                DELEGATION_SOURCE_HEADER: DELEGATION_SOURCE,
                DELEGATION_TIMESTAMP_HEADER: str(round(time.time() * 1000)),
            }
            case.headers = {**(case.headers or {}), **headers}
            signature = delegation_signature(DELEGATION_SECRET, self._sent(case))
            case.headers[DELEGATION_SIGNATURE_HEADER] = signature

    def _sent(self, case: Case) -> bytes:
        return _bytes_of(case.as_transport_kwargs(base_url=self.stack.origin))

    def token(self, case: Case) -> str:
        """The caller's token, or an operator's. One that expires soon ends what would not end by
        itself.
        """
        if case.path.startswith("/v1/operator/"):
            return kept_identities.load(DataDir.at(self.stack.data_dir)).operator_token
        if case.path.endswith("/events"):
            issuer = IssuerIdentity.load_or_make(DataDir.at(self.stack.data_dir))
            return issuer.token(SUBJECT, expires_in_s=2)
        return self.caller.token

    def send(self, case: Case) -> schemathesis.Response:
        """Send it, again where that was only too often; a limit by the hour is an answer."""
        self.prepare(case)
        while True:
            headers = {"Authorization": f"Bearer {self.token(case)}"}
            response = case.call(base_url=self.stack.origin, session=self.session, headers=headers)
            wait_s = int(response.headers.get("retry-after", ["0"])[0])
            if response.status_code != 429 or wait_s > LONGEST_WAIT_S:
                return response
            time.sleep(wait_s)

    def spare_key(self) -> str:
        """A key that no other operation needs: one that an example made, or a new one."""
        listed = self.caller.http.get("/v1/keys").json()["keys"]
        others = [key["id"] for key in listed if key["id"] != self.ids.get("keyId")]
        if others:
            return others[0]
        made = self.caller.http.post("/v1/keys", json={"name": "spare", "scopes": ["read"]})
        return made.json()["key"]["id"]

    def _spare_agent(self) -> str:
        if not self.spare or self.caller.http.get(f"/v1/agents/{self.spare}").status_code == 404:
            self.spare = self.caller.create_agent(f"spare {time.monotonic_ns()}")["id"]
        return self.spare


def _has_wrong_headers(case: Case) -> bool:
    headers = None if case.meta is None else case.meta.components.get(ParameterLocation.HEADER)
    return headers is not None and headers.mode.is_negative


def _whole_numbers(value: Any) -> Any:
    """What is whole without its `.0`: JSON schema tells no integer from 1.0."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole_numbers(inner) for name, inner in value.items()}
        case list():
            return [_whole_numbers(inner) for inner in value]
        case _:
            return value


def _bytes_of(sent: dict[str, Any]) -> bytes:
    taken = {name: sent[name] for name in ("method", "url", "json", "data") if name in sent}
    body = Request(**taken).prepare().body or b""
    return body.encode() if isinstance(body, str) else body


@pytest.fixture(scope="module")
def world(stack: Stack) -> World:
    caller = stack.unlimited_caller(SUBJECT)
    agent = caller.create_agent(envVarKeys=[DECLARED])
    deployment = caller.deploy(agent["id"])
    caller.invoke(agent["id"], "Hello")
    reported = {
        "userId": agent["userId"],
        "agentId": agent["id"],
        "deploymentId": deployment["id"],
        "runtimeProvider": deployment["runtimeProvider"],
    }
    world = World(stack, caller, StackKeys(stack), {}, reported)
    world.ids = {
        "agentId": agent["id"],
        "deploymentId": deployment["id"],
        "key": DECLARED,
        "keyId": world.spare_key(),
    }
    return world


@pytest.mark.accept("7.conformance")
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_answers_are_as_described(world: World, operation: Operation) -> None:
    check(world, operation, FEW)


@pytest.mark.accept("7.conformance")
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_answers_are_as_described_whatever_is_sent(world: World, operation: Operation) -> None:
    statuses = check(world, operation, MANY)
    assert sum(statuses.values()) >= MANY
    print(f"{operation}: {dict(sorted(statuses.items()))}")


def check(world: World, operation: Operation, examples: int) -> Counter[int]:
    """Try so many examples of data of both kinds; return how often which status came."""
    statuses: Counter[int] = Counter()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        # Of an operation that takes ids alone, it is the ids that are wrong.
        with_ids = mode is GenerationMode.POSITIVE or not operation.takes_nothing_else
        _check(world, operation, mode, examples, with_ids, statuses)
    return statuses


def _check(
    world: World,
    operation: Operation,
    mode: GenerationMode,
    examples: int,
    with_ids: bool,
    statuses: Counter[int],
) -> None:
    known = world.of(operation) if with_ids else {}
    described = SCHEMA[operation.path][operation.method]
    queried = {
        it["name"] for it in operation.described.get("parameters", ()) if it["in"] == "query"
    }

    @given(case=described.as_strategy(mode, path_parameters=known or None))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        # Not shrunk: under the limits of a user's rates that would take hours.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def conforms(case: Case) -> None:
        if with_ids and known:
            case.path_parameters = {**(case.path_parameters or {}), **world.of(operation)}
        response = world.send(case)
        statuses[response.status_code] += 1
        unknown = set(case.query or ()) - queried
        # By contract a query's unknown names are ignored, whatever else is wrong with them.
        case.validate_response(
            response, excluded_checks=[negative_data_rejection] if unknown else None
        )

    conforms()
