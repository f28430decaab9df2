"""Audit entries and deployments' logs are what the facts say, and go when their time is over."""

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace
from webhost_api.retention import Retention
from webhost_contracts import ids, maintenance, subjects, wire
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    AgentCreated,
    CheckoutStarted,
    DelegationRefused,
    DeploymentFailed,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTornDown,
    Envelope,
    PeriodThresholdReached,
    ReportRejected,
    SecretDeleted,
    SecretSet,
    SubscriptionChanged,
    TeardownFinished,
    TeardownStarted,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.events.base import Event
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.eventsourcing.store import new_id

from tests.integration.api.harness import Harness, User, ok, problem
from tests.integration.api.test_events import until_number
from tests.integration.api.watching import watching
from tests.support import facts
from tests.support.audited import AUDITED
from tests.support.deadline import eventually
from tests.support.facts import deployment_started, envelope
from tests.support.harness import in_background

DAY_MS = 24 * 3600 * 1000


async def state(harness: Harness, user: User, aggregate_id: str, *events: Event) -> None:
    """State these facts of an aggregate, from its first, each twice, as after a relay's crash."""
    for version, event in enumerate(events, start=1):
        stated = envelope(user.id, aggregate_id, event, version=version)
        subject = event.published_on(user.id, aggregate_id)
        headers = {subjects.TYPE_HEADER: event.type_name()}
        for _ in range(2):
            await harness.bus.js.publish(subject, wire.encode(stated), headers=headers)


def failures(agent_id: str, error: DeploymentError) -> list[Event]:
    """A deployment that fails at its second step, at the second try."""
    step = {"agent_id": agent_id, "started_at_ms": now_ms()}
    return [
        deployment_started(agent_id),
        DeploymentStepSucceeded(step="validate", attempt=1, **step),
        DeploymentStepFailed(
            step="upload", attempt=1, error=error, retry_at_ms=now_ms() + 500, **step
        ),
        DeploymentStepFailed(step="upload", attempt=2, error=error, **step),
        DeploymentFailed(agent_id=agent_id, error=error),
    ]


ERROR = DeploymentError(
    step="upload",
    message="Cloudflare refused the script.",
    endpoint="PUT /accounts/…/scripts",
    provider_code="10021",
    provider_message="Bearer abcdefghijklmnop is not valid",
)


PURCHASE = (
    CheckoutStarted(tier="pro", variant_id="2", checkout_id="c"),
    WebhookProcessed(event_name="subscription_created", subscription_id="1", body_hash="0"),
    SubscriptionChanged(
        subscription_id="1",
        status="active",
        variant_id="2",
        customer_id="3",
        updated_at_ms=1,
        source="webhook",
        tier="pro",
    ),
)


async def a_life(harness: Harness, user: User) -> tuple[str, str]:
    """A user's agent with a good deployment and a failed one, up to its deletion.

    Returns the agent and the failed deployment.
    """
    agent_id = (await user.create(description="sk-abcdefghijkl", envVarKeys=["MODE"]))["id"]
    problem(await user.http.post("/v1/agents", json={"name": ""}), 400, "INVALID_REQUEST")
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "X-Request-Id": "req-1"}
    body = {"name": "Bearer abcdefghijklmnop"}
    ok(await user.http.patch(f"/v1/agents/{agent_id}", json=body, headers=trace))
    good = (await user.deploy(agent_id))["id"]
    succeeded = DeploymentSucceeded(agent_id=agent_id, worker_name="whs-a", invoke_url="https://w")
    await state(harness, user, good, deployment_started(agent_id), succeeded)
    await until_status(user, good, "active")
    bad = (await user.deploy(agent_id))["id"]
    problem(await user.http.post(f"/v1/agents/{agent_id}/deploy"), 409, "CONFLICT")
    await state(harness, user, bad, *failures(agent_id, ERROR))
    await until_status(user, bad, "failed")
    tier = envelope(user.id, user.id, TierChanged(tier="pro", previous_tier="free", source="x"))
    await facts.publish(
        harness.bus,
        subjects.event(user.id, "account", user.id),
        replace(tier, actor="operator:ops"),
    )
    for verb in ("disable", "disable", "enable"):
        ok(await user.http.post(f"/v1/agents/{agent_id}/{verb}"))
    ok(await user.http.delete(f"/v1/agents/{agent_id}"))
    await state(
        harness,
        user,
        agent_id,
        TeardownStarted(agent_id=agent_id),
        TeardownFinished(agent_id=agent_id),
    )
    torn_down = envelope(user.id, good, DeploymentTornDown(agent_id=agent_id), version=3)
    await facts.publish(harness.bus, subjects.event(user.id, "deployment", agent_id), torn_down)
    keys = {"agent_id": agent_id, "keys": ("MODE",)}
    await state(harness, user, ids.secrets_of(agent_id), SecretSet(**keys), SecretDeleted(**keys))
    for version, event in enumerate(
        (AccountDisabled(source="x", reason="unpaid"), AccountEnabled(source="x"), *PURCHASE),
        start=2,
    ):
        changed = envelope(user.id, user.id, event, version=version)
        await facts.publish(harness.bus, subjects.event(user.id, "account", user.id), changed)
    reached = PeriodThresholdReached(
        period_key="2026-11", limit_type="tokens", percent=80, limit=250_000, tier="free"
    )
    await state(harness, user, ids.period_of(user.id, "2026-11"), reached)
    refusal = DelegationRefused(source="desk", code="NOT_FOUND", agent_id=agent_id)
    rejection = ReportRejected(
        agent_id=agent_id, deployment_id=bad, code="INVALID_REQUEST", reason="Too old."
    )
    for event in (refusal, rejection):
        await state(harness, user, new_id(ids.EVENT, now_ms()), event)
    return agent_id, bad


async def until_status(user: User, deployment_id: str, status: str) -> None:
    async def reached() -> bool:
        return (await user.deployment(deployment_id))["status"] == status

    await eventually(reached, f"the deployment to be {status}")


async def audit(user: User, **filters: Any) -> list[dict[str, Any]]:
    """All entries, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = ok(await user.http.get("/v1/audit", params={"limit": 3, **filters, **cursor}))
        found += page["entries"]
        if page["nextCursor"] is None:
            return found
        cursor = {"cursor": page["nextCursor"]}


async def own_facts(harness: Harness, user: User) -> list[Envelope]:
    """What the api's event table and, for the others, the stream hold of a user, each once."""
    rows = await harness.rows("SELECT envelope FROM events WHERE user_id = :u", u=user.id)
    mine = [wire.decode(bytes(row["envelope"]), Envelope) for row in rows]
    of_others = [
        one
        for kind in ("deployment", "account", "period", "secret", "delegation", "report")
        for one in await facts.stored(harness.bus, subjects.EVENTS, f"evt.{user.id}.{kind}.*")
    ]
    return list({one.event_id: one for one in [*mine, *of_others]}.values())


def expected(stated: list[Envelope]) -> set[tuple[Any, ...]]:
    """The entries that these facts are, but for their details."""
    return {
        (
            one.event_id,
            one.occurred_at_ms,
            AUDITED[one.type_name()],
            one.actor,
            one.request_id,
            "a" * 32 if one.traceparent else None,
        )
        for one in stated
        if one.type_name() in AUDITED
    }


def as_facts(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("id", "atMs", "action", "actor", "requestId", "traceId")
    return [tuple(entry.get(name) for name in names) for entry in entries]


@pytest.mark.accept("7.audit.facts")
async def test_the_audit_is_what_the_facts_say(harness: Harness, user: User) -> None:
    agent_id, bad = await a_life(harness, user)

    async def complete() -> bool:
        return len(await audit(user)) >= len(expected(await own_facts(harness, user)))

    await eventually(complete, "the audit to be complete")
    entries = await audit(user)
    found = as_facts(entries)
    assert len(found) == len(set(found))
    assert set(found) == expected(await own_facts(harness, user))
    assert {entry["action"] for entry in entries} == {*AUDITED.values()} - {
        *("deployment.retired", "deployment.script_lost", "deployment.telemetry_key_revoked"),
        *("key.created", "key.rotated", "key.revoked"),
    }
    assert [entry["atMs"] for entry in entries] == sorted(
        (entry["atMs"] for entry in entries), reverse=True
    )

    [tier] = await audit(user, action="tier.changed")
    assert (tier["actor"], tier["details"]) == (
        "operator:ops",
        {"tier": "pro", "previousTier": "free"},
    )
    assert "agentId" not in tier
    for action in ("a\x00b", "Agent.created", "x" * 101):
        response = await user.http.get("/v1/audit", params={"action": action})
        problem(response, 400, "INVALID_REQUEST")
    of_agent = await audit(user, agentId=agent_id)
    [threshold] = await audit(user, action="usage.threshold_reached")
    assert threshold["details"] == {
        "periodKey": "2026-11",
        "limitType": "tokens",
        "percent": 80,
        "limit": 250_000,
        "tier": "free",
    }
    of_the_account = {
        *("tier.changed", "account.disabled", "account.enabled", "usage.threshold_reached"),
        *("checkout.started", "webhook.processed", "subscription.changed"),
    }
    assert of_agent == [entry for entry in entries if entry["action"] not in of_the_account]
    [failed] = await audit(user, action="deployment.failed")
    assert (failed["agentId"], failed["deploymentId"]) == (agent_id, bad)
    [updated] = await audit(user, action="agent.updated")
    assert updated["details"] == {"name": "[redacted]", "envVarKeys": ["MODE"]}
    assert "abcdefghijkl" not in json.dumps(entries)
    await until_gapless(harness, agent_id)


async def until_gapless(harness: Harness, agent_id: str) -> None:
    """Repeats on the stream took no number."""
    query = "SELECT count(*) FROM history WHERE agent_id = :a AND number IS NOT NULL"
    last = await harness.scalar(
        "SELECT last_number FROM agent_events WHERE agent_id = :a", a=agent_id
    )
    assert await harness.scalar(query, a=agent_id) == last


@pytest.mark.accept("7.logs.steps")
async def test_a_log_has_every_step_and_attempt(harness: Harness, user: User) -> None:
    agent_id = (await user.create())["id"]
    bad = (await user.deploy(agent_id))["id"]
    await state(harness, user, bad, *failures(agent_id, ERROR))
    await until_status(user, bad, "failed")
    path = f"/v1/deployments/{bad}/logs"

    async def ended() -> bool:
        return len(ok(await user.http.get(path))["lines"]) == 7

    await eventually(ended, "the log to be complete")
    whole = ok(await user.http.get(path))
    assert whole["nextCursor"] is None
    lines = [line for line in whole["lines"] if line["type"].startswith("deployment.")]
    assert [
        (line["type"], line.get("step"), line.get("attempt"), line.get("outcome"))
        for line in reversed(lines)
    ] == [
        ("deployment.started.v1", None, None, None),
        ("deployment.step_succeeded.v1", "validate", 1, "succeeded"),
        ("deployment.step_failed.v1", "upload", 1, "failed"),
        ("deployment.step_failed.v1", "upload", 2, "failed"),
        ("deployment.failed.v1", None, None, "failed"),
    ]
    again, final = lines[2], lines[1]
    assert again["startedAtMs"] <= again["atMs"] < again["retryAtMs"]
    assert "retryAtMs" not in final
    assert final["error"] == {
        "code": "DEPLOYMENT_FAILED",
        "message": "Cloudflare refused the script.",
        "retryable": False,
        "details": {
            "step": "upload",
            "endpoint": "PUT /accounts/…/scripts",
            "providerCode": "10021",
            "providerMessage": "[redacted] is not valid",
        },
    }
    first = ok(await user.http.get(path, params={"limit": 4}))
    rest = ok(await user.http.get(path, params={"limit": 4, "cursor": first["nextCursor"]}))
    assert first["lines"] + rest["lines"] == whole["lines"]
    problem(await user.http.get(path, params={"cursor": "bm9uZQ"}), 400, "INVALID_REQUEST")


async def state_old(harness: Harness, user: User, agent_id: str, days: int) -> tuple[str, str]:
    """State an audited fact and one that is not, so many days ago; return their ids."""
    at_ms = now_ms() - days * DAY_MS
    created = envelope(user.id, agent_id, AgentCreated(name="old"), at_ms=at_ms)
    started = envelope(
        user.id, new_id(ids.DEPLOYMENT, at_ms), deployment_started(agent_id), at_ms=at_ms
    )
    for stated, event in ((created, AgentCreated), (started, DeploymentStarted)):
        subject = subjects.event(user.id, event.kind(), agent_id)
        await facts.publish(harness.bus, subject, stated)
    return created.event_id, started.event_id


async def kept(harness: Harness, *event_ids: str) -> set[str]:
    query = "SELECT event_id FROM history WHERE event_id = ANY(:ids)"
    return {row["event_id"] for row in await harness.rows(query, ids=list(event_ids))}


@pytest.mark.accept("7.history.retention")
async def test_old_history_is_removed_in_one_process_at_a_time(database_url: str) -> None:
    class Noting(Retention):
        times = 0

        async def once(self) -> int:
            self.times += 1
            return 0

    database = Database(database_url)
    retention = Noting(database, load_tiers(), every_s=0.01)
    async with held(database_url, "history retention") as lock, in_background(retention.run()):
        assert lock is not None
        await asyncio.sleep(0.3)
        assert retention.times == 0
    async with in_background(retention.run()):

        async def removed() -> bool:
            return retention.times > 0

        await eventually(removed, "the retention to go on alone")
    await database.close()


@pytest.mark.accept("7.history.retention")
async def test_history_is_kept_for_the_days_of_the_tier_that_a_user_has(
    harness: Harness, user: User
) -> None:
    """Free: events and lines for 3 days, audit entries for 7; pro: for 14 and 30."""
    rich = harness.user()
    for one in (user, rich):
        ok(await one.http.get("/v1/me"))
    tier = envelope(rich.id, rich.id, TierChanged(tier="pro", previous_tier="free", source="x"))
    await facts.publish(harness.bus, subjects.event(rich.id, "account", rich.id), tier)
    stated = {
        (one.id, days): await state_old(harness, one, new_id(ids.AGENT, now_ms()), days)
        for one in (user, rich)
        for days in (1, 4, 8, 15)
    }
    everything = [event_id for pair in stated.values() for event_id in pair]

    async def folded() -> bool:
        return await kept(harness, *everything) == {*everything}

    await eventually(folded, "all of it to be folded")
    shown = {entry["id"] for entry in await audit(user, action="agent.created")}
    assert shown == {stated[user.id, 1][0], stated[user.id, 4][0]}

    retention = Retention(harness.database, load_tiers(), every_s=3600)
    await retention.once()
    of_user = {user.id: {1: (True, True), 4: (True, False)}, rich.id: {15: (True, False)}}
    of_rich = {1: (True, True), 4: (True, True), 8: (True, True), **of_user[rich.id]}
    left = await kept(harness, *everything)
    for (user_id, days), pair in stated.items():
        expected_here = (of_user[user.id] if user_id == user.id else of_rich).get(
            days, (False, False)
        )
        assert tuple(one in left for one in pair) == expected_here, (user_id == user.id, days)

    lower = envelope(
        rich.id, rich.id, TierChanged(tier="free", previous_tier="pro", source="x"), version=2
    )
    await facts.publish(harness.bus, subjects.event(rich.id, "account", rich.id), lower)

    async def lowered() -> bool:
        me = ok(await rich.http.get("/v1/me"))
        return me["user"]["tier"] == "free"

    await eventually(lowered, "the lower tier")
    assert {entry["id"] for entry in await audit(rich, action="agent.created")} == {
        stated[rich.id, 1][0],
        stated[rich.id, 4][0],
    }
    await retention.once()
    assert await kept(harness, *stated[rich.id, 8], *stated[rich.id, 15]) == set()


@pytest.mark.accept("7.history.replay")
async def test_a_replay_restores_the_history_and_its_numbers(harness: Harness, user: User) -> None:
    """Whoever watches meanwhile gets nothing twice."""
    agent_id = (await user.create())["id"]
    ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
    ok(await user.http.post(f"/v1/agents/{agent_id}/enable"))
    await until_number(harness, agent_id, 3)
    before = await audit(user)
    await harness.execute(
        "UPDATE history SET action = 'forged', data = '{}' WHERE agent_id = :a AND number = 1",
        a=agent_id,
    )
    async with watching(user, agent_id, 0) as watcher:
        await watcher.until_id(3)
        request = wire.encode(maintenance.ProjectionRequest(projection="api.history"))
        subject = maintenance.subject("api", maintenance.REPLAY)
        answer = await harness.bus.client.request(subject, request, timeout=10)
        assert wire.decode(answer.data, maintenance.ReplayReply).refused is None

        async def restored() -> bool:
            return await audit(user) == before

        await eventually(restored, "the history to be as before", seconds=30)
        ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
        await watcher.until_id(4)
    assert watcher.ids == [1, 2, 3, 4]


async def test_old_facts_that_a_replay_adds_are_no_events(harness: Harness, user: User) -> None:
    """Retention had removed them; whoever watches is told to read the agent anew."""
    agent_id = (await user.create())["id"]
    await until_number(harness, agent_id, 1)
    async with watching(user, agent_id) as watcher:
        await watcher.until("ready")
        subject = subjects.event(user.id, "deployment", agent_id)
        old = envelope(
            user.id,
            new_id(ids.DEPLOYMENT, now_ms()),
            deployment_started(agent_id),
            at_ms=now_ms() - 5 * DAY_MS,
        )
        await facts.publish(harness.bus, subject, old)
        await watcher.until("reset")
        ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
        await watcher.until("agent.disabled.v1")
    assert watcher.names == ["ready", "reset", "agent.disabled.v1"]
