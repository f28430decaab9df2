"""Forged, repeated or misattributed reports never change usage; the gateway cannot be bypassed.

"Unchanged" is checked after a barrier: usage is folded in the order of one stream, so once a later
call is counted with both its reports, whatever was accepted before it is counted too.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest
from webhost_contracts import ids, signatures
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.keys import StackKeys
from tests.support.reports import report_of
from tests.support.stack import Stack

COUNTERS = ("requests", "llmTokens", "computeMs", "toolCalls", "errors")
MINUTE_MS = 60_000

Usage = dict[str, int]
Headers = dict[str, str]


@dataclass
class Tenant:
    """A user with one agent and its deployment, which answers."""

    caller: Caller
    user_id: str
    agent_id: str
    deployment_id: str

    @classmethod
    def on(cls, stack: Stack) -> "Tenant":
        caller = stack.caller()
        agent = caller.create_agent()
        deployment = caller.deploy(agent["id"])
        return cls(caller, agent["userId"], agent["id"], deployment["id"])

    def counted_call(self) -> dict[str, Any]:
        """Make a call; return what was counted for it once both reports of it are in."""
        trace_id = self.caller.invoke(self.agent_id, "A good call.")["traceId"]
        counted: list[dict[str, Any]] = []

        def both() -> bool:
            counted[:] = [e for e in self.caller.recent_calls() if e.get("traceId") == trace_id]
            return [event["source"] for event in counted] == ["both"]

        until(both, "both reports of a call", seconds=20)
        return counted[0]

    def usage(self) -> Usage:
        used = self.caller.usage()["usage"]
        return {name: used[name] for name in COUNTERS}

    def usage_behind_a_barrier(self) -> Usage:
        """Usage without the call that this makes."""
        barrier = self.counted_call()
        used = self.usage()
        return {name: used[name] - barrier[name] for name in COUNTERS}

    def report(self, **changes: Any) -> bytes:
        """A report as this tenant's Worker would make it."""
        changes = {"llmTokens": 5_000, "computeMs": 6_000} | changes
        return report_of(self.user_id, self.agent_id, self.deployment_id, **changes)


@dataclass
class Forgery:
    """Who may have a hand in a forged report, and how it is posted."""

    stack: Stack
    keys: StackKeys
    victim: Tenant
    attacker: Tenant

    def post(self, body: bytes, headers: Headers) -> httpx.Response:
        url = f"{self.stack.origin}/v1/telemetry/report"
        headers = headers | {"Content-Type": "application/json"}
        return httpx.post(url, content=body, headers=headers)


@pytest.fixture(scope="module")
def forgery(stack: Stack) -> Forgery:
    return Forgery(stack, StackKeys(stack), Tenant.on(stack), Tenant.on(stack))


def _tampered(f: Forgery) -> tuple[bytes, Headers]:
    body = f.victim.report()
    headers = f.keys.report_headers(f.victim.deployment_id, body)
    return body.replace(b'"llmTokens":5000', b'"llmTokens":5001'), headers


def _unsigned(f: Forgery) -> tuple[bytes, Headers]:
    return f.victim.report(), {signatures.TELEMETRY_DEPLOYMENT_HEADER: f.victim.deployment_id}


def _with_another_deployments_key(f: Forgery) -> tuple[bytes, Headers]:
    body = f.victim.report()
    headers = f.keys.report_headers(f.attacker.deployment_id, body)
    return body, headers | {signatures.TELEMETRY_DEPLOYMENT_HEADER: f.victim.deployment_id}


def _for_another_deployment(f: Forgery) -> tuple[bytes, Headers]:
    body = f.victim.report()
    return body, f.keys.report_headers(f.attacker.deployment_id, body)


def _for_a_foreign_user(f: Forgery) -> tuple[bytes, Headers]:
    body = f.attacker.report(userId=f.victim.user_id)
    return body, f.keys.report_headers(f.attacker.deployment_id, body)


def _for_a_foreign_agent(f: Forgery) -> tuple[bytes, Headers]:
    body = f.attacker.report(agentId=f.victim.agent_id)
    return body, f.keys.report_headers(f.attacker.deployment_id, body)


def _for_everything_foreign(f: Forgery) -> tuple[bytes, Headers]:
    body = f.attacker.report(userId=f.victim.user_id, agentId=f.victim.agent_id)
    return body, f.keys.report_headers(f.attacker.deployment_id, body)


@pytest.mark.accept("3")
@pytest.mark.parametrize(
    ("forge", "status", "code"),
    [
        (_tampered, 401, "UNAUTHENTICATED"),
        (_unsigned, 401, "UNAUTHENTICATED"),
        (_with_another_deployments_key, 401, "UNAUTHENTICATED"),
        (_for_another_deployment, 403, "UNAUTHORIZED"),
        (_for_a_foreign_user, 403, "UNAUTHORIZED"),
        (_for_a_foreign_agent, 403, "UNAUTHORIZED"),
        (_for_everything_foreign, 403, "UNAUTHORIZED"),
    ],
)
def test_forged_telemetry_is_refused_and_never_counted(
    forgery: Forgery,
    forge: Callable[[Forgery], tuple[bytes, Headers]],
    status: int,
    code: str,
) -> None:
    tenants = (forgery.victim, forgery.attacker)
    for tenant in tenants:
        tenant.counted_call()
    before = [tenant.usage() for tenant in tenants]
    answer = forgery.post(*forge(forgery))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if status == 403:
        assert answer.json()["error"]["details"]["reason"] == "attribution_mismatch"
    assert [tenant.usage_behind_a_barrier() for tenant in tenants] == before


@pytest.mark.accept("3")
def test_a_replayed_report_counts_once(forgery: Forgery) -> None:
    tenant = forgery.victim
    tenant.counted_call()
    before = tenant.usage()
    body = tenant.report()
    headers = forgery.keys.report_headers(tenant.deployment_id, body)
    first = forgery.post(body, headers)
    assert (first.status_code, first.json()["deduped"]) == (202, False)
    once = tenant.usage_behind_a_barrier()
    assert once["requests"] == before["requests"] + 1
    assert once["llmTokens"] == before["llmTokens"] + 5_000

    tenant.counted_call()
    before = tenant.usage()
    for _ in range(3):
        again = forgery.post(body, headers)
        assert (again.status_code, again.json()["deduped"]) == (202, True)
    assert tenant.usage_behind_a_barrier() == before


@pytest.mark.accept("3")
def test_a_second_report_of_a_real_call_changes_nothing(forgery: Forgery) -> None:
    tenant = forgery.victim
    counted = tenant.counted_call()
    before = tenant.usage()
    body = tenant.report(eventId=counted["invocationId"], timestampMs=counted["timestampMs"])
    answer = forgery.post(body, forgery.keys.report_headers(tenant.deployment_id, body))
    assert (answer.status_code, answer.json()["accepted"]) == (202, True)
    assert tenant.usage_behind_a_barrier() == before


@pytest.mark.accept("5.signature")
@pytest.mark.accept("3")
def test_a_worker_takes_calls_from_the_gateway_only(forgery: Forgery) -> None:
    tenant, keys = forgery.victim, forgery.keys
    tenant.counted_call()
    before = tenant.usage()
    body = msgspec.json.encode(
        {
            "protocol": "invoke/v1",
            "input": {"messages": [{"role": "user", "content": "Around the gateway."}]},
            "traceId": secrets.token_hex(16),
            "invocationId": new_id(ids.INVOCATION, now_ms()),
            "admittedAtMs": now_ms(),
            "timeoutMs": 60_000,
            "deployment": {
                "userId": tenant.user_id,
                "agentId": tenant.agent_id,
                "keyVersion": 1,
                "keyGeneration": 1,
            },
        }
    )

    def call(headers: Headers, sent: bytes = body) -> httpx.Response:
        url = f"{forgery.stack.origin}/dep/{tenant.deployment_id}/invoke"
        headers = headers | {"Content-Type": "application/json", "Accept": "application/json"}
        return httpx.post(url, content=sent, headers=headers, timeout=20)

    def signed(at_ms: int, deployment_id: str = tenant.deployment_id) -> Headers:
        return keys.invoke_headers(at_ms, deployment_id, body)

    platform = keys.platform_signature(now_ms(), tenant.deployment_id, body)
    refused = {
        "unsigned": call({}),
        "older than a minute": call(signed(now_ms() - MINUTE_MS - 1_000)),
        "more than a minute ahead": call(signed(now_ms() + MINUTE_MS + 5_000)),
        "captured at another deployment": call(signed(now_ms(), forgery.attacker.deployment_id)),
        "another body": call(signed(now_ms()), body.replace(b"Around", b"Behind")),
        "signed by the deployer": call({signatures.INVOKE_SIGNATURE_HEADER: platform}),
        "a probe's signature": call({signatures.PLATFORM_SIGNATURE_HEADER: platform}),
    }
    found = {case: (a.status_code, a.json()["error"]["code"]) for case, a in refused.items()}
    assert found == dict.fromkeys(refused, (401, "UNAUTHENTICATED"))
    assert tenant.usage_behind_a_barrier() == before

    # It was the signature that was missing, and nothing else.
    answer = call(signed(now_ms()))
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"]["text"] == "You said: Around the gateway."


@pytest.mark.accept("5.trace-id")
@pytest.mark.accept("3")
def test_two_calls_with_one_trace_id_count_twice(stack: Stack) -> None:
    tenant = Tenant.on(stack)
    trace_id = f"one-{secrets.token_hex(8)}"
    for _ in range(2):
        answer = tenant.caller.invoke(tenant.agent_id, "Twice.", traceId=trace_id)
        assert answer["traceId"] == trace_id

    def told() -> list[tuple[str, str]]:
        return [(e["traceId"], e["source"]) for e in tenant.caller.recent_calls()]

    until(lambda: told() == [(trace_id, "both")] * 2, "both calls' reports", seconds=20)
    assert len({e["invocationId"] for e in tenant.caller.recent_calls()}) == 2
    assert tenant.usage()["requests"] == 2
