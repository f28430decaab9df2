"""The audit of a life on real parts, against the event tables of the services that state its facts.

They are folded here by a list of the tests' own.
"""

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.signatures import (
    DELEGATION_SIGNATURE_HEADER,
    DELEGATION_SOURCE_HEADER,
    DELEGATION_TIMESTAMP_HEADER,
    delegation_signature,
)
from webhost_kit.bus.connection import connect
from webhost_kit.clock import now_ms

from tests.support.audited import AUDITED
from tests.support.deadline import until
from tests.support.facts import stored
from tests.support.stack import DELEGATION_SECRET, DELEGATION_SOURCE, Stack

BROKEN = "this is not JavaScript("
SETTLED_S = 60

Entry = tuple[str, str, int, str, str | None]


def facts_of(stack: Stack, user_id: str) -> list[Envelope]:
    """All that the api, the deployer and billing have stated of a user, and the gateway."""
    query = " UNION ALL ".join(
        f"SELECT envelope FROM {schema}.events WHERE user_id = %(user)s"
        for schema in ("api", "deployer", "billing")
    )
    with psycopg.connect(stack.status()["postgresDsn"]) as connection:
        found = connection.execute(query, {"user": user_id}).fetchall()
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, apart from the tests' own one
        refused = pool.submit(asyncio.run, _refused(stack.status()["natsUrl"], user_id)).result()
    return [*(wire.decode(bytes(envelope), Envelope) for [envelope] in found), *refused]


async def _refused(nats_url: str, user_id: str) -> list[Envelope]:
    bus = await connect(nats_url, "operator")
    try:
        return await stored(bus, subjects.EVENTS, f"evt.{user_id}.delegation.*")
    finally:
        await bus.close()


def delegate(stack: Stack, subject: str, agent_id: str) -> int:
    """Call for this user as a back end does; return the status."""
    delegation = {"mode": "hmac_v1", "externalUserId": subject, "idempotencyKey": "k"}
    call = {"delegation": delegation, "invoke": {"input": {"prompt": "Hi."}}}
    body = json.dumps(call).encode()
    headers = {
        DELEGATION_SOURCE_HEADER: DELEGATION_SOURCE,
        DELEGATION_TIMESTAMP_HEADER: str(now_ms()),
        DELEGATION_SIGNATURE_HEADER: delegation_signature(DELEGATION_SECRET, body),
    }
    url = f"{stack.origin}/v1/delegated/invoke/{agent_id}"
    return httpx.post(url, content=body, headers=headers).status_code


def folded(stated: list[Envelope]) -> set[Entry]:
    return {
        (
            one.event_id,
            AUDITED[one.type_name()],
            one.occurred_at_ms,
            one.actor,
            one.request_id,
        )
        for one in stated
        if one.type_name() in AUDITED
    }


def shown(entries: list[dict[str, Any]]) -> list[Entry]:
    return [
        (one["id"], one["action"], one["atMs"], one["actor"], one.get("requestId"))
        for one in entries
    ]


@pytest.mark.accept("7.audit.facts")
def test_the_audit_of_a_life_with_failures_is_what_was_stated(stack: Stack) -> None:
    subject = f"user-{secrets.token_hex(6)}"
    caller = stack.caller(subject)
    user_id = caller.me()["id"]
    agent_id = caller.create_agent(envVarKeys=["MODE"])["id"]
    first = caller.deploy(agent_id)
    broken = caller.deploy_ended(caller.start_deploy(agent_id, moduleCode=BROKEN)["id"])
    assert broken["status"] == "failed"
    caller.deploy(agent_id)
    path = f"/v1/agents/{agent_id}"
    answers = [
        caller.http.post(f"{path}/deployments/{first['id']}/activate", json={"reason": "back"}),
        caller.http.post(f"{path}/deployments/{broken['id']}/activate"),
        caller.http.post(f"{path}/disable"),
        caller.http.post(f"{path}/deploy"),
        caller.http.post(f"{path}/enable"),
        caller.http.post(f"{path}/secrets", json={"secrets": {"MODE": "quiet"}}),
        caller.http.delete(f"{path}/secrets/MODE"),
    ]
    assert [answer.status_code for answer in answers] == [200, 409, 200, 409, 200, 204, 204]
    key = caller.http.post("/v1/keys", json={"name": "ci", "scopes": ["read"]}).json()["key"]
    assert caller.http.delete(f"/v1/keys/{key['id']}").status_code < 300
    stack.webhost("users", "set-tier", user_id, "starter")
    for verb in ("disable", "enable"):
        stack.webhost("users", verb, user_id)
    assert delegate(stack, subject, "agt_of-somebody-else") == 404
    assert caller.http.delete(path).status_code == 200

    def audited() -> list[Entry]:
        answer = caller.http.get("/v1/audit", params={"limit": 100})
        assert answer.status_code == 200, answer.text
        return shown(answer.json()["entries"])

    def is_whole() -> bool:
        stated = folded(facts_of(stack, user_id))
        is_whole = {"agent.torn_down", "delegation.refused"} <= {entry[1] for entry in stated}
        return is_whole and len(audited()) >= len(stated)

    until(is_whole, "the agent to be removed, and that to be audited", seconds=SETTLED_S)
    entries = audited()
    assert len(entries) == len(set(entries))
    assert set(entries) == folded(facts_of(stack, user_id))
    assert {entry[1] for entry in entries} == {*AUDITED.values()} - {
        "agent.updated",
        "deployment.retired",
        "deployment.telemetry_key_revoked",
        "deployment.script_lost",
        "key.rotated",
        "telemetry.rejected",
        *("checkout.started", "webhook.processed", "subscription.changed"),
        "usage.threshold_reached",
    }
    [tier] = [entry for entry in entries if entry[1] == "tier.changed"]
    assert tier[3].startswith("operator:")
