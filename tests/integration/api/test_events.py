"""Agents' events as they happen: no gap and no double, wherever a stream is cut."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from webhost_contracts import ids, subjects, wire
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    InvocationFinished,
)
from webhost_contracts.events.packets import PACKET, pack
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from tests.integration.api.harness import KEYS, Harness, User, ok, problem
from tests.integration.api.watching import Seen, events_in, watching
from tests.support.deadline import eventually
from tests.support.facts import deployment_started, envelope

STEPS = 9


async def a_short_life(harness: Harness, user: User) -> str:
    """An agent to which STEPS things happened, a failed deployment among them."""
    agent_id = (await user.create(name="ü and …", envVarKeys=["MODE"]))["id"]
    ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
    ok(await user.http.post(f"/v1/agents/{agent_id}/enable"))
    deployment_id = (await user.deploy(agent_id))["id"]
    error = DeploymentError(step="route", message="no", provider_message="two\nlines")
    step = {"agent_id": agent_id, "attempt": 1, "started_at_ms": now_ms()}
    for version, fact in enumerate(
        (
            deployment_started(agent_id),
            DeploymentStepSucceeded(step="upload", **step),
            DeploymentStepFailed(step="route", error=error, **step),
            DeploymentFailed(agent_id=agent_id, error=error),
        ),
        start=1,
    ):
        await harness.given(user.id, deployment_id, fact, version=version)
    await until_number(harness, agent_id, STEPS)
    return agent_id


async def until_number(harness: Harness, agent_id: str, number: int) -> None:
    async def there() -> bool:
        query = "SELECT last_number FROM agent_events WHERE agent_id = :a"
        return await harness.scalar(query, a=agent_id) == number

    await eventually(there, f"event number {number} of the agent")


async def recorded(user: User, agent_id: str) -> bytes:
    async with watching(user, agent_id, 0) as watcher:
        await watcher.until_id(STEPS)
    return bytes(watcher.received)


async def resumed(user: User, agent_id: str, cut: int) -> list[Seen]:
    """What a client has that was cut after so many bytes, and went on with its last id."""
    async with watching(user, agent_id, 0) as watcher:
        await watcher.bytes(cut)
    before = watcher.seen
    last = before[-1] if before else None
    if last is not None and last.id == STEPS:
        return before
    async with watching(user, agent_id, last.whole_id if last else 0) as watcher:
        await watcher.until_id(STEPS)
    return before + watcher.seen


async def check_cuts(user: User, agent_id: str, cuts: list[int], whole: list[Seen]) -> None:
    async def check(cuts: list[int]) -> None:
        for cut in cuts:
            assert await resumed(user, agent_id, cut) == whole, f"cut after {cut} bytes"

    async with asyncio.TaskGroup() as group:
        for start in range(8):
            group.create_task(check(cuts[start::8]))


@pytest.mark.accept("7.events.resume")
async def test_a_stream_resumes_after_a_cut(harness: Harness, user: User) -> None:
    """At the edges of every event, and at places in between."""
    agent_id = await a_short_life(harness, user)
    stream = await recorded(user, agent_id)
    whole = events_in(stream)
    assert [one.id for one in whole] == list(range(1, STEPS + 1))
    edges = [place for place in range(len(stream)) if stream[place - 1 : place + 1] == b"\n\n"]
    cuts = {place + by for place in edges for by in (-1, 0, 1, 2)} | {*range(0, len(stream), 97)}
    await check_cuts(user, agent_id, sorted(cut for cut in cuts if 0 <= cut <= len(stream)), whole)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.accept("7.events.resume")
async def test_a_stream_resumes_after_a_cut_at_every_byte(harness: Harness, user: User) -> None:
    agent_id = await a_short_life(harness, user)
    stream = await recorded(user, agent_id)
    await check_cuts(user, agent_id, [*range(len(stream) + 1)], events_in(stream))


@pytest.mark.accept("7.events.live")
async def test_events_come_as_they_happen_until_the_agent_is_deleted(
    harness: Harness, user: User
) -> None:
    agent_id = (await user.create())["id"]
    await until_number(harness, agent_id, 1)
    async with watching(user, agent_id) as watcher:
        headers = watcher.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers
        ready = await watcher.until("ready")
        assert (ready.id, ready.data) == (1, {"agentId": agent_id})
        key = {"X-Request-Id": "the-request"}
        ok(await user.http.patch(f"/v1/agents/{agent_id}", json={"name": "new"}, headers=key))
        updated = await watcher.until("agent.updated.v1")
        assert updated.id == 2
        assert updated.data.pop("atMs") <= now_ms()
        assert ids.has_prefix(updated.data.pop("id"), ids.EVENT)
        assert updated.data == {
            "type": "agent.updated.v1",
            "agentId": agent_id,
            "actor": f"user:{user.id}",
            "data": {"name": "new"},
        }
        ok(await user.http.delete(f"/v1/agents/{agent_id}"))
        await watcher.until("agent.deleted.v1")
        await watcher.until_end()
    answer = await user.http.get(f"/v1/agents/{agent_id}/events")
    problem(answer, 404, "NOT_FOUND")


@pytest.mark.accept("7.events.replicas")
async def test_another_replica_goes_on_where_one_died(own_harness: Harness) -> None:
    """The api that folds dies between its commit and everything that it would do next."""
    harness, user = own_harness, own_harness.user()
    agent_id = await a_short_life(harness, user)
    second = harness.process("webhost_api", JWT_ISSUER=harness.issuer.url, **KEYS)
    async with second:
        async with watching(user, agent_id, 0) as watcher:
            await watcher.until_id(4)
            del watcher.received[watcher.received.index(b"id: 5") :]
        async with watching(user, agent_id, 4, url=second.url) as at_second:
            harness.crash_file.write_text("api.history_folded")
            answer = await user.http.patch(
                f"{second.url}/v1/agents/{agent_id}", json={"name": "after"}
            )
            ok(answer)
            await at_second.until_id(STEPS + 1)
            await harness.service.died()
        assert watcher.ids + at_second.ids == list(range(1, STEPS + 2))
        await harness.service.start()
        async with watching(user, agent_id, 3) as at_first:
            await at_first.until_id(STEPS + 1)
        assert at_first.seen == (watcher.seen + at_second.seen)[3:]


async def test_a_stream_ends_with_its_token(harness: Harness) -> None:
    user = harness.user(exp=int(time.time()) + 3)
    agent_id = (await user.create())["id"]
    async with watching(user, agent_id) as watcher:
        await watcher.until_end()
    assert watcher.names[0] == "ready"


async def test_a_key_that_may_read_watches_and_reads(harness: Harness, user: User) -> None:
    agent_id = (await user.create())["id"]
    body = {"name": "ci", "scopes": ["read"], "agentIds": [agent_id]}
    made = ok(await user.http.post("/v1/keys", json=body), 201)
    limited = User(harness.client(Authorization=f"Bearer {made['token']}"), user.id, harness)
    async with watching(limited, agent_id, 0) as watcher:
        await watcher.until_id(1)
    other = (await user.create())["id"]
    answer = await limited.http.get(f"/v1/agents/{other}/events")
    problem(answer, 404, "NOT_FOUND")
    assert (await limited.http.get("/v1/audit")).status_code in (403, 404)
    entries = ok(await user.http.get("/v1/audit?action=key.created"))["entries"]
    assert [entry["details"]["keyId"] for entry in entries] == [made["key"]["id"]]
    assert entries[0]["details"].keys() == {"keyId", "name", "scopes", "agentIds"}


@pytest.mark.accept("7.events.reset")
@pytest.mark.parametrize("position", [3, STEPS + 7])
async def test_what_cannot_be_resumed_is_said(harness: Harness, user: User, position: int) -> None:
    """Behind an event that retention removed, and behind one that this database never had."""
    agent_id = await a_short_life(harness, user)
    query = "DELETE FROM history WHERE agent_id = :a AND number = 6"
    await harness.execute(query, a=agent_id)
    async with watching(user, agent_id, position) as watcher:
        reset = await watcher.until("reset")
        ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
        await watcher.until("agent.disabled.v1")
    assert (reset.id, reset.data) == (STEPS, {"agentId": agent_id})
    expected = [4, 5] if position == 3 else []
    assert watcher.ids == [*expected, STEPS, STEPS + 1]


@pytest.mark.accept("7.events.reset")
async def test_an_event_that_took_anothers_number_is_not_taken_for_it(
    harness: Harness, user: User
) -> None:
    """After a restore of all, its number may be that of what happened since."""
    agent_id = await a_short_life(harness, user)
    async with watching(user, agent_id, 0) as watcher:
        await watcher.until_id(STEPS)
    fifth = watcher.seen[4]
    assert fifth.whole_id == f"5-{fifth.data['id'][-8:]}"
    other = new_id(ids.EVENT, now_ms())
    query = "UPDATE history SET event_id = :other WHERE agent_id = :a AND number = 5"
    await harness.execute(query, a=agent_id, other=other)
    async with watching(user, agent_id, fifth.whole_id) as watcher:
        reset = await watcher.until("reset")
    assert watcher.ids == [STEPS]
    async with watching(user, agent_id, reset.whole_id) as watcher:
        ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
        await watcher.until("agent.disabled.v1")
    assert watcher.ids == [STEPS + 1]
    async with watching(user, agent_id, f"5-{other[-8:]}") as watcher:
        await watcher.until_id(STEPS + 1)
    assert watcher.ids == list(range(6, STEPS + 2))


async def test_an_id_that_is_none_is_refused(user: User) -> None:
    agent_id = (await user.create())["id"]
    for id_ in ("evt_1", "-1", "1" * 16, "1-", "1-7m2q9xk", "1-7M2Q9XK4"):
        answer = await user.http.get(
            f"/v1/agents/{agent_id}/events", headers={"Last-Event-ID": id_}
        )
        assert problem(answer, 400, "INVALID_REQUEST")["details"]["issues"][0]["path"] == [
            "Last-Event-ID"
        ]


@pytest.mark.accept("7.events.bounds")
async def test_a_user_has_so_many_streams_at_a_time(harness: Harness, user: User) -> None:
    agent_id = (await user.create())["id"]
    path = f"/v1/agents/{agent_id}/events"
    async with httpx.AsyncClient(
        base_url=harness.service.url, headers=user.http.headers, timeout=20
    ) as http:
        responses = [
            await http.send(http.build_request("GET", path), stream=True) for _ in range(20)
        ]
        assert {each.status_code for each in responses} == {200}
        refused = problem(await user.http.get(path), 429, "RATE_LIMITED")
        assert "20 event streams" in refused["message"]
        await responses[0].aclose()

        async def has_room() -> bool:
            async with user.http.stream("GET", path) as response:
                return response.status_code == 200

        await eventually(has_room, "room for another stream")
        for response in responses:
            await response.aclose()


def finished(agent_id: str) -> InvocationFinished:
    return InvocationFinished(
        agent_id=agent_id,
        deployment_id=new_id(ids.DEPLOYMENT, now_ms()),
        runtime_provider="cloudflare",
        trace_id="not shown",
        admitted_at_ms=now_ms(),
        outcome="succeeded",
        wall_ms=12,
    )


async def publish_call(harness: Harness, user_id: str, agent_id: str) -> str:
    """Publish the fact of a call as a gateway does; return the invocation's id."""
    call = envelope(user_id, new_id(ids.INVOCATION, now_ms()), finished(agent_id))
    subject = subjects.usage_packets(subjects.partition_of(user_id), subjects.GATEWAY)
    await harness.bus.js.publish(
        subject, pack([wire.encode(call)]), headers={subjects.TYPE_HEADER: PACKET}
    )
    return call.aggregate_id


@pytest.mark.accept("7.events.notices")
async def test_counted_calls_are_noticed(harness: Harness, user: User) -> None:
    agent_id = (await user.create())["id"]
    await until_number(harness, agent_id, 1)
    other = harness.user()
    others = (await other.create())["id"]
    async with watching(user, agent_id) as watcher:
        await watcher.until("ready")
        invocations: list[str] = []
        is_noticed = asyncio.Event()

        async def call() -> None:
            """Until the first one is noticed: the usage is followed from some moment on."""
            while not is_noticed.is_set():
                await publish_call(harness, other.id, others)
                await publish_call(harness, other.id, agent_id)
                invocations.append(await publish_call(harness, user.id, agent_id))
                await asyncio.sleep(0.2)

        calling = asyncio.create_task(call())
        try:
            notice = await watcher.until("invocation.finished.v1")
        finally:
            is_noticed.set()
            await calling
    assert notice.id is None
    assert notice.data["invocationId"] in invocations
    assert notice.data["agentId"] == agent_id
    assert notice.data["data"] == {"outcome": "succeeded", "wallMs": 12, "errors": 0}
    seen = {one.data["invocationId"] for one in watcher.seen[1:]}
    assert seen <= {*invocations}
    assert "not shown" not in json.dumps([one.data for one in watcher.seen])


@pytest.mark.accept("7.events.notices", "7.events.live")
async def test_without_usage_events_come_until_the_service_stops(own_harness: Harness) -> None:
    harness, user = own_harness, own_harness.user()
    agent_id = (await user.create())["id"]
    await until_number(harness, agent_id, 1)
    async with watching(user, agent_id) as watcher:
        await watcher.until("ready")
        await harness.bus.js.delete_stream(subjects.USAGE)
        ok(await user.http.post(f"/v1/agents/{agent_id}/disable"))
        await watcher.until("agent.disabled.v1")
        assert await harness.service.ready()
        began = time.monotonic()
        assert await harness.service.stop() == 0
        assert time.monotonic() - began < 8
        await watcher.until_end()


def problem_but_for_its_id(answer: httpx.Response) -> dict[str, Any]:
    error = problem(answer, 404, "NOT_FOUND")
    error.pop("requestId")
    return error


@pytest.mark.accept("7.events.tenants")
async def test_others_events_look_like_none(harness: Harness, user: User) -> None:
    agent_id = await a_short_life(harness, user)
    [deployment] = ok(await user.http.get(f"/v1/agents/{agent_id}/deployments"))["deployments"]
    other = harness.user()
    unknown_agent, unknown = new_id(ids.AGENT, now_ms()), new_id(ids.DEPLOYMENT, now_ms())
    for theirs, nobodys in (
        (f"/v1/agents/{agent_id}/events", f"/v1/agents/{unknown_agent}/events"),
        (f"/v1/audit?agentId={agent_id}", f"/v1/audit?agentId={unknown_agent}"),
        (f"/v1/deployments/{deployment['id']}/logs", f"/v1/deployments/{unknown}/logs"),
    ):
        answers = [await other.http.get(path) for path in (theirs, nobodys)]
        assert problem_but_for_its_id(answers[0]) == problem_but_for_its_id(answers[1])
    assert ok(await other.http.get("/v1/audit")) == {"entries": [], "nextCursor": None}
