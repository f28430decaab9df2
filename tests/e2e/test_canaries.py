"""API keys, prompts and answers, put through good ways and bad ones, are kept and logged nowhere.

An answer that shows a key (made, rotated) and the answer of a call itself are the only ones that
hold any of it. What an agent throws or logs is the tenant's own, and at the local edge, which
stands for Cloudflare, in its log.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row
from webhost_api.idempotency import IdempotencyKey
from webhost_contracts.signatures import (
    DELEGATION_SIGNATURE_HEADER,
    DELEGATION_SOURCE_HEADER,
    DELEGATION_TIMESTAMP_HEADER,
    delegation_signature,
)
from webhost_gateway.ledger.recording import Kept
from webhost_gateway.model import Claim
from webhost_kit.response_keys import ResponseKeys
from webhost_kit.sealing import Opener, Owner
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir

from tests.support.caller import Caller
from tests.support.canaries import Canaries, places_of
from tests.support.deadline import until
from tests.support.keys import StackKeys
from tests.support.stack import DELEGATION_SECRET, DELEGATION_SOURCE, Stack

SUBJECT = "the one with canaries"
REVERSES = """
export default { async invoke(request, context) {
  const said = request.input.messages.at(-1).content;
  if (context.env.FAILS === said) throw new Error(said);
  if (said.startsWith("throw ")) throw new Error(said);
  if (said.startsWith("log ")) console.log(said);
  return [...said].reverse().join("");
} };
"""
FAILS_AT_START = """
import { env } from "cloudflare:workers";
throw new Error("no start with " + JSON.stringify(env));
export default { async invoke() { return ""; } };
"""
COUNTERS = ("timestampMs", "requests", "llmTokens", "computeMs", "errors")
REPORTED = dict.fromkeys(("userId", "agentId", "deploymentId", "runtimeProvider"), "x") | (
    dict.fromkeys(COUNTERS, 1)
)
FAILS_ITS_PROBE = "export const nothing = 1;"


@dataclass
class Flow:
    """A user whose keys and prompts are canaries; all answers, but those that may hold one."""

    stack: Stack
    user: Caller
    canaries: Canaries = field(default_factory=Canaries)
    answers: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    tokens: dict[str, str] = field(default_factory=dict[str, str])

    def note(self, response: httpx.Response, *, own: bool = False) -> httpx.Response:
        """Keep an answer for the scan; of one that is the call's `own`, the headers alone."""
        headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        name = f"{response.request.method} {response.request.url.path[:40]} {response.status_code}"
        self.answers.append((name, headers.encode() + (b"" if own else response.content)))
        return response

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self.note(self.user.http.request(method, path, **kwargs))

    def key(self, name: str, response: httpx.Response) -> str:
        """Take a new key from the answer that shows it, as three canaries."""
        self.note(response, own=True)
        assert response.is_success, response.text
        token: str = response.json()["token"]
        secret = token.split("_")[2]
        self.canaries.add(name, token)
        self.canaries.add(f"{name}'s secret", secret)
        self.canaries.add(f"{name}'s secret in bytes", bytes.fromhex(secret))
        self.tokens[name] = token
        return response.json()["key"]["id"]

    def prompt(self, name: str, behind: str = "") -> str:
        """Make a prompt, and expect the answer to it, which is a canary too."""
        made = behind + self.canaries.new(f"prompt {name}")
        self.canaries.add(f"answer {name}", self.canaries.values[f"prompt {name}"][::-1])
        return made


def as_source(body: bytes, secret: bytes = DELEGATION_SECRET) -> dict[str, str]:
    return {
        DELEGATION_SOURCE_HEADER: DELEGATION_SOURCE,
        DELEGATION_TIMESTAMP_HEADER: str(round(time.time() * 1000)),
        DELEGATION_SIGNATURE_HEADER: delegation_signature(secret, body),
    }


def delegated(prompt: str, key: str = "k", subject: str = SUBJECT) -> bytes:
    delegation = {"mode": "hmac_v1", "externalUserId": subject, "idempotencyKey": key}
    return json.dumps({"delegation": delegation, "invoke": {"input": {"prompt": prompt}}}).encode()


def keys_go_through(flow: Flow, agent_id: str) -> None:
    """Made, used, rotated, expired, revoked, and sent to where no key belongs."""
    post = flow.user.http.post
    body = {"name": "canary", "scopes": ["invoke", "read"]}
    once = {"Idempotency-Key": "made-once"}
    key_id = flow.key("made", post("/v1/keys", json=body, headers=once))
    assert flow.key("repeated", post("/v1/keys", json=body, headers=once)) == key_id
    flow.key("rotated", post(f"/v1/keys/{key_id}/rotate", json={"overlapSeconds": 60}))
    ends_at_ms = round(time.time() * 1000) + 500
    flow.key("expired", post("/v1/keys", json=body | {"expiresAtMs": ends_at_ms}))
    other = flow.key("revoked", post("/v1/keys", json=body | {"scopes": ["admin"]}))
    assert flow.tokens["made"] == flow.tokens["repeated"]
    opened = opened_by_the_test(flow, key_id)
    assert flow.tokens["made"] in opened
    for name in flow.tokens:
        header = {"Authorization": f"Bearer {flow.tokens[name]}"}
        flow.send("GET", "/v1/me", headers=header)
        flow.send("POST", "/v1/agents", headers=header, json={"name": ["x"]})
        flow.send("POST", "/v1/invoke/agt_nothing", headers=header, json={"input": {}})
    flow.send("DELETE", f"/v1/keys/{other}")
    flow.send("GET", "/v1/keys")
    for token in dict.fromkeys(flow.tokens.values()):
        misplaced(flow, token, agent_id)
    flow.send("DELETE", f"/v1/keys/{key_id}")


def opened_by_the_test(flow: Flow, key_id: str) -> str:
    """The recorded answer that made this key, which nobody reads without RESPONSE_KEYS."""
    known = kept_identities.load_or_make(DataDir.at(flow.stack.data_dir))
    [row] = rows(flow.stack, "SELECT * FROM api.idempotency WHERE key = 'made-once'")
    request = IdempotencyKey(
        *(row["user_id"], row["route"], row["key"], b""),
        ResponseKeys.parse(known.api_response_keys),
    )
    answer = request.open(row["key_id"], row["body"]).decode()
    assert key_id in answer
    return answer


def misplaced(flow: Flow, token: str, agent_id: str) -> None:
    """Send a key where none belongs, with the headers and the paths of all services."""
    headers: list[dict[str, str]] = [
        {"Authorization": token},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {token}0"},
        {"Authorization": f"Bearer {token[:-9]}"},
        {"X-Request-Id": token},
        {"traceparent": token},
        {"Last-Event-ID": token},
        {"Cookie": f"token={token}"},
        {"User-Agent": token},
        {"Origin": f"https://{token}.example"},
        {DELEGATION_SOURCE_HEADER: token, DELEGATION_SIGNATURE_HEADER: token},
        {"Idempotency-Key": token},
    ]
    for given in headers:
        flow.send("GET", "/v1/me", headers=given)
        flow.send("POST", "/v1/agents", headers=given, json={"name": 1})
        flow.send("POST", f"/v1/invoke/{agent_id}", headers=given, json={"input": {"prompt": "x"}})
        flow.send("POST", f"/v1/delegated/invoke/{agent_id}", headers=given, content=b"{}")
        flow.send("POST", "/v1/telemetry/report", headers=given, content=b"{}")
    flow.send("POST", "/v1/agents", headers={"Idempotency-Key": token}, json={"name": token[:8]})
    for path in (
        *(f"/v1/agents/{token}", f"/v1/deployments/{token}", f"/v1/agents/{token}/secrets"),
        *(f"/v1/me?token={token}", f"/v1/audit?action={token}", f"/v1/agents?cursor={token}"),
        *(f"/{token}", f"/v1/metrics/recent?agentId={token}", f"/v1/agents?status={token}"),
    ):
        flow.send("GET", path)
    path, named = f"/v1/agents/{agent_id}", {"X-Request-Id": token}
    flow.send("PATCH", path, headers=named, json={"description": token[:8]})
    call, traced = f"/v1/invoke/{agent_id}", {"input": {"prompt": "x"}, "traceId": token}
    assert flow.send("POST", call, headers=named, json=traced).is_success
    body = delegated("x", key=token)
    flow.send("POST", f"/v1/delegated/invoke/{agent_id}", content=body, headers=as_source(body))
    flow.send("DELETE", f"/v1/keys/{token}")
    flow.send("POST", f"/v1/invoke/{token}", json={"input": {"prompt": "x"}})
    flow.send("POST", f"/v1/keys/{token}/rotate", json={"overlapSeconds": token})
    flow.send("POST", "/v1/keys", json={"name": "x", "scopes": [token]})
    flow.send("POST", "/v1/keys", json={"name": "x", "scopes": ["read"], "agentIds": [token]})
    flow.send("POST", "/v1/keys", content=f'{{"name": "{token}')
    flow.send("GET", "/v1/me", headers={"Authorization": f"Bearer {token}", "X-Request-Id": token})


def prompts_go_through(flow: Flow, agent_id: str, deployment_id: str) -> None:
    """Answered, streamed, repeated, delegated, and refused in every way there is."""
    user = flow.user
    call = f"/v1/invoke/{agent_id}"
    flow.note(user.post_invoke(agent_id, flow.prompt("plain")), own=True)
    list(user.stream(agent_id, flow.prompt("streamed")))
    thrown = user.post_invoke(agent_id, flow.prompt("thrown", "throw "))
    assert flow.note(thrown, own=True).status_code == 502
    kept = {"input": {"prompt": flow.prompt("kept")}}
    for _ in range(2):
        answer = user.http.post(call, json=kept, headers={"Idempotency-Key": "one-run"})
        flow.note(answer, own=True)
    for prompt in (flow.prompt("delegated"), flow.prompt("of another body")):
        body = delegated(prompt)
        path = f"/v1/delegated/invoke/{agent_id}"
        answer = user.http.post(path, content=body, headers=as_source(body))
        flow.note(answer, own=answer.is_success)
    flow.note(user.http.post(call, json={**kept, "traceId": flow.prompt("as trace")}), own=True)

    bad = flow.prompt("refused")
    body = delegated(bad)
    for path in (call, f"{call}/stream", "/v1/invoke/agt_nothing", f"/v1/invoke/{quote(bad)}"):
        for wrong in (
            {"input": {"prompt": [bad]}},
            {"input": bad},
            {"input": {"prompt": bad, "messages": []}},
            {"input": {"messages": [{"role": bad, "content": bad}]}},
            {"input": {"messages": [{"role": "user", "content": [bad]}]}},
            {"input": {"prompt": bad}, "options": {"temperature": bad}},
            {"input": {"prompt": bad}, "protocol": bad},
            {"input": {"prompt": bad}, "stream": bad},
            bad,
        ):
            flow.send("POST", path, json=wrong)
        for raw in (f'{{"input": {{"prompt": "{bad[:24]}', bad.encode("utf-16"), bad.encode()):
            flow.send("POST", path, content=raw)
        flow.send("POST", path, json={"input": {"prompt": bad * 30_000}})
        for header in ("", "Bearer x", f"Bearer {flow.tokens['revoked']}"):
            sent = {"Authorization": header}
            flow.send("POST", path, json={"input": {"prompt": bad}}, headers=sent)
    flow.send("POST", call, json={"input": {"prompt": bad}, "sessionId": "ses_" + bad[:24]})
    for raw in (body, body[:-1], delegated(bad, subject=bad[:24]), delegated(bad, key=bad)):
        for secret in (DELEGATION_SECRET, b"another"):
            path = f"/v1/delegated/invoke/{agent_id}x"
            flow.send("POST", path, content=raw, headers=as_source(raw, secret))
    flow.send("POST", "/v1/telemetry/report", content=bad.encode())
    report = json.dumps({"userId": bad, "errorClass": bad, "deploymentId": deployment_id}).encode()
    signed = StackKeys(flow.stack).report_headers(deployment_id, report)
    assert flow.send("POST", "/v1/telemetry/report", content=report, headers=signed).is_error
    report = json.dumps(REPORTED | {"errorClass": bad}).encode()
    signed = StackKeys(flow.stack).report_headers(deployment_id, report)
    wrong = flow.send("POST", "/v1/telemetry/report", content=report, headers=signed)
    assert (wrong.status_code, "errorClass" in wrong.text) == (400, True)
    encoded = quote(bad)
    for path in (f"/v1/agents/{encoded}", f"/{encoded}", f"/v1/audit?action={encoded}"):
        flow.send("GET", path)
    flow.send("PATCH", f"/v1/agents/{agent_id}", json={"name": [bad], "envVarKeys": [bad]})
    flow.send("POST", f"/v1/agents/{agent_id}/deploy", json={"uploadId": bad, "invokePath": bad})


def rows(stack: Stack, query: str, *parameters: Any) -> list[dict[str, Any]]:
    with psycopg.connect(stack.status()["postgresDsn"], row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()


def what_is_sealed(flow: Flow, agent_id: str) -> Iterator[str]:
    """What the ledger and the deployer keep of this agent, opened with the keys of the stack."""
    known = kept_identities.load_or_make(DataDir.at(flow.stack.data_dir))
    keys = ResponseKeys.parse(known.response_keys)
    query = "SELECT * FROM gateway.idempotency WHERE agent_id = %s AND response IS NOT NULL"
    for row in rows(flow.stack, query, agent_id):
        names = ("invocation_id", "user_id", "agent_id", "kind", "key", "key_id")
        claim = Claim(*(row[name] for name in names), "", row["created_at_ms"])
        sealed = keys.open(claim.key_id, claim.invocation_id, row["response"], claim.binding)
        yield msgspec.msgpack.decode(sealed, type=Kept).body.decode()
    opener = Opener.parse(known.settings_of("deployer")["SECRETS_PRIVATE_KEYS"], "secrets")
    user_id = flow.user.me()["id"]
    for row in rows(flow.stack, "SELECT * FROM deployer.secrets WHERE agent_id = %s", agent_id):
        yield opener.open(row["sealed"], Owner(user_id, agent_id, row["key"]))


@pytest.mark.accept("7.4.canaries")
def test_keys_and_prompts_are_kept_logged_and_answered_nowhere(stack: Stack) -> None:
    flow = Flow(stack, stack.caller(SUBJECT))
    canaries, user = flow.canaries, flow.user
    agent_id = user.create_agent(envVarKeys=["FAILS"])["id"]
    secret = canaries.new("secret", between="-")
    flow.send("POST", f"/v1/agents/{agent_id}/secrets", json={"secrets": {"FAILS": secret}})
    deployment_id = user.deploy(agent_id, moduleCode=REVERSES)["id"]
    user.invoke(agent_id, "ready?")

    keys_go_through(flow, agent_id)
    prompts_go_through(flow, agent_id, deployment_id)
    # What the agent throws at a call with its own secret is between the two.
    flow.note(user.post_invoke(agent_id, secret), own=True)
    for module in (FAILS_AT_START, FAILS_ITS_PROBE):
        failed = user.start_deploy(agent_id, moduleCode=module)["id"]
        assert user.deploy_ended(failed)["status"] == "failed"
        for path in ("", "/logs"):
            flow.send("GET", f"/v1/deployments/{failed}{path}")

    opened = [*what_is_sealed(flow, agent_id)]
    assert secret in opened
    for name in ("kept", "delegated"):
        answer = canaries.values[f"answer {name}"]
        assert any(answer in json.loads(it)["output"]["text"] for it in opened if it[:1] == "{")
    for path in (
        *("/v1/me", "/v1/agents", f"/v1/agents/{agent_id}", f"/v1/agents/{agent_id}/deployments"),
        *("/v1/audit?limit=100", "/v1/metrics/recent", "/v1/usage/current", "/v1/keys"),
    ):
        flow.send("GET", path)
    flow.send("POST", f"/v1/agents/{agent_id}/disable")
    until(lambda: user.post_invoke(agent_id, "?").status_code == 403, "the agent to be disabled")
    flow.send("POST", f"/v1/invoke/{agent_id}", json={"input": {"prompt": flow.prompt("late")}})
    flow.send("DELETE", f"/v1/agents/{agent_id}")
    stack.until_deployer_rests()

    theirs = {"prompt thrown", "secret"}
    found = canaries.hits_in(places_of(stack))
    assert [it for it in found if it.place != "log edge" or it.canary not in theirs] == []
    assert canaries.hits_in(flow.answers) == []
    planted_ones_are_found(flow)


def planted_ones_are_found(flow: Flow) -> None:
    """What stands in each kind of place on purpose is found by the same scan."""
    user, canaries = flow.user, flow.canaries
    planted = canaries.new("planted", between="-")
    agent_id = user.create_agent(name=planted, description=planted)["id"]
    user.deploy(agent_id, moduleCode=REVERSES)
    user.invoke(agent_id, f"log {planted}")
    answer = ("an answer", user.http.get(f"/v1/agents/{agent_id}").content)
    needed = {"api.agents", "dump of webhost", "stream EVENTS", "log edge", "an answer"}

    def found() -> set[str]:
        hits = canaries.hits_in([*places_of(flow.stack), answer])
        return {hit.place for hit in hits if hit.canary == "planted"}

    until(lambda: needed <= found(), "what was planted to be found")
